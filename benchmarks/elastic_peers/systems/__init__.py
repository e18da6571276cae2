"""One module per system measured, each with `create(work, traffic, *arguments)`; `worker.py` says what that returns."""
