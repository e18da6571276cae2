"""Search for the smallest plan with a small enough loss, or the best plan within a budget."""
