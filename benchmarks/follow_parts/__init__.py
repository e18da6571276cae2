"""What the benchmark of following is made of."""
