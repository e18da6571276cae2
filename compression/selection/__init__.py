"""Which fields a model can do without: gates that are learned, costs that are measured, a choice within a budget."""
