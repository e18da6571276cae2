"""Tables on disk: checkpoints, deltas and shards."""
