"""The model gate: a candidate measured on held-out impressions."""
