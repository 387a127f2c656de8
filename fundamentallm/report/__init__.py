"""Results of runs: read from folders or W&B, explained in words, shown on a page."""
