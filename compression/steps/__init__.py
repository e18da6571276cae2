"""Lossy steps of compression, each fitted to a model and applied to it, in order."""
