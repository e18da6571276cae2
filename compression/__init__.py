"""From a trained checkpoint to a small SavedModel of stock ops."""
