"""Spark: raw logs to partitions, statistics and graphs. DataFrame in, DataFrame out; no TensorFlow here."""
