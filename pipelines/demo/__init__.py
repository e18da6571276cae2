"""`make demo`: the daily pipeline over a few days, through a real Airflow, with the figures on the screen."""
