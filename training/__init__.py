"""Learning: the elastic table, the models on top of it, and the trainer. No Spark, no Airflow here."""
