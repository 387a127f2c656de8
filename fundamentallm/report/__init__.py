"""What runs found: read from their folders or from W&B, said in words, shown on a page."""
