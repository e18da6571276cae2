"""A table as files: full checkpoints, deltas, shards."""
