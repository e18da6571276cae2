"""A day's impressions in memory: columns, examples and the inputs of the models."""
