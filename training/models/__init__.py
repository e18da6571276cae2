"""Click models on elastic embeddings: their kinds and parts, multi-hashing, encodings."""
