"""Deltas between two models: written, and applied in memory and in servers."""
