"""Where a run's numbers and samples go: one file a tracker, and the protocol they share."""
