"""Training: data, models on elastic embeddings, fitting, evaluation. No Spark, no Airflow."""
