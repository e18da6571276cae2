"""Training of the models: one day or hour, or an endless stream."""
