"""Click logs with known truth: `log` writes a day, `truth` gives true click probabilities."""
