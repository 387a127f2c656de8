"""Sweeps: what a sweep file means, and what it asks of a run."""
