"""Multi-hashing: vectors made of the rows of small tables. Settings, keys of the rows, sizes."""
