"""Vectors composed of the rows of several small tables: which rows (`keys`), how composed (`combine`), how large (`size`)."""
