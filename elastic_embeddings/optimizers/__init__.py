"""Group-lasso rules: each formula once, run in a graph or in a compiled kernel over rows."""
