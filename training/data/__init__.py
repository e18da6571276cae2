"""What a day's impressions are in memory: examples, columns, inputs."""
