"""Parts of `benchmarks/globo.py`."""
