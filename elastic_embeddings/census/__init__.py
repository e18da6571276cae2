"""What a table looks like: figures and a plot."""
