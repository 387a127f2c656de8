"""Scaling laws: the loss to expect of a model's size and of the length of its run."""
