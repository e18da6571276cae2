"""Group-lasso optimizers: each formula is written once and runs in graphs and compiled kernels."""
