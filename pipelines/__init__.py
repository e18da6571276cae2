"""The composition: configuration, artifacts, stages, tracking, command line."""
