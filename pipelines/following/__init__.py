"""One long-lived process that learns files of the log as they land and publishes what it learned."""
