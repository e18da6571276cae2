"""`make demo`: train a few days through a real Airflow and print the results."""
