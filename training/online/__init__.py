"""Learning a day as a stream: hour by hour, sampled, warm-started with care, and scored before it is learned."""
