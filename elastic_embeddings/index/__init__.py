"""The key index: a hash table from keys to entries and rows, in compiled code."""
