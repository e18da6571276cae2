"""Figures and models to MLflow, by a local journal."""
