"""The parts of `benchmarks/frappe.py`: the files, a trainer for each library, the cache of finished runs, the figures."""
