"""The feature contract: the kinds of fields, the canonical form of a value, and its key.

Every other package may import this one; it imports none of them but `elastic_embeddings`. Only
`features.keys` and `features.times` need TensorFlow.
"""
