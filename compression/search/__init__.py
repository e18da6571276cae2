"""The smallest plan that costs little enough, or the best that fits: found by measuring plans on held-out impressions."""
