"""The served model in TensorFlow's own operations."""
