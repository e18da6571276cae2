"""Parts of `benchmarks/whole_path.py`."""
