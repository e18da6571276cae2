"""Admission policies, the sketch that counts keys without a row, and an offline replay."""
