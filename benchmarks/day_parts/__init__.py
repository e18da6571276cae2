"""Parts of `benchmarks/day.py`."""
