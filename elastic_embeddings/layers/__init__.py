"""The table as a Keras layer, and the line on the dataset that runs the index ahead."""
