"""Rules that explain a sweep: one small function each, with its source."""
