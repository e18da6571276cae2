"""How good a day's model is on the held-out slice: figures, intervals, slices, plots."""
