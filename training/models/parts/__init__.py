"""The parts that a model's logit is the sum of."""
