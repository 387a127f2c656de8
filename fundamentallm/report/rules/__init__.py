"""What can be said of a sweep: a small function a rule, each with its source and its numbers."""
