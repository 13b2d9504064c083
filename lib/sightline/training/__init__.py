"""Training loops that resume where they were stopped."""
