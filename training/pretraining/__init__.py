"""Pre-training on the cross graph: encodings for the click model."""
