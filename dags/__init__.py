"""Airflow wiring only: which stage runs when, for which day, with which parameters."""
