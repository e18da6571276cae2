"""Evaluation of models: metrics, slices, reports, scoring."""
