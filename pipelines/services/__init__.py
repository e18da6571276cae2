"""The embedded Airflow and MLflow: start them, watch them, stop them. `python -m pipelines.services up|down|status`."""
