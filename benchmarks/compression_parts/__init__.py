"""Parts of `benchmarks/compress.py`."""
