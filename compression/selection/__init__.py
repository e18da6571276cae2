"""Select the fields of a model: trained gates, measured costs, a choice within a budget."""
