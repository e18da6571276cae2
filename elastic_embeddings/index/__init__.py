"""From keys to entries and rows: a hash table in compiled code."""
