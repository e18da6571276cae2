"""Lift: by how much one way of choosing earns more clicks than another."""
