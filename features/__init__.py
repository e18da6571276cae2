"""The feature contract: what a field is, how a value is spelled, which key it gets.

Every other package may import it, it imports none of them. Only `features.keys` and `features.times` need TensorFlow.
"""
