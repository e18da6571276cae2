"""Parts of `benchmarks/spark_jobs.py`."""
