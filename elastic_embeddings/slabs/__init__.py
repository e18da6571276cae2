"""Rows of vectors and optimizer state, in host memory or on a device."""
