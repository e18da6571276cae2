"""The exported model: a SavedModel of stock TensorFlow ops."""
