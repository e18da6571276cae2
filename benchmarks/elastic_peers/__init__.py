"""Systems of `benchmarks/elastic.py`, each run in a process of its own."""
