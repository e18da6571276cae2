"""The parts of `benchmarks/elastic.py`: one workload, one process per system, the rounds, the figures."""
