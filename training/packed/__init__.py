"""Stored forms of a compressed model's rows: fewer bits, fewer columns, codes; and back."""
