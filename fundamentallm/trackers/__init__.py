"""Trackers: they record a run's metrics and samples. One file each, and their protocol."""
