"""Changes between two models: written, applied in memory and in servers."""
