"""The data gate: a day's aggregates against expectations."""
