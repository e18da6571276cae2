"""What a day costs, part by part."""
