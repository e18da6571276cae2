"""The parts whose sum is a model's logit."""
