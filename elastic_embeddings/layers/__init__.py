"""The table as a Keras layer, and the dataset transformation that prepares batches ahead."""
