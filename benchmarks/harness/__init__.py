"""What all benchmarks share: options, processes, environments of peers, data sets."""
