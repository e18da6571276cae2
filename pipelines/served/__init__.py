"""Code that is stored with a model in the registry and serves it where this project is absent."""
