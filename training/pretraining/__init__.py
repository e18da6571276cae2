"""Encodings learned from the cross graph before the click model is trained."""
