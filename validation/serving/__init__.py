"""The costs of serving an exported model."""
