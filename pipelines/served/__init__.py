"""What goes along with a model into the registry: code that serves it where this project is not installed."""
