"""The embedded Airflow, MLflow and Spark server: start, watch and stop them.

`python -m pipelines.services up|down|status`.
"""
