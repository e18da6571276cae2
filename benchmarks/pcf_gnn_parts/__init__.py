"""Parts of `benchmarks/pcf_gnn.py`."""
