"""Follow mode: train on log files as they arrive, and publish each change of the model."""
