"""Training: one day or hour, from the checkpoint before to its own."""
