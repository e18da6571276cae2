"""Spark jobs: raw logs to partitions, statistics and graphs, without TensorFlow."""
