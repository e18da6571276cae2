"""Parts of `benchmarks/multi_hash.py`."""
