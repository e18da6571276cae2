"""What serving an exported model costs."""
