"""Airflow DAGs: which stage runs when, for which day, with which parameters."""
