"""Tune: from a text and a time budget to the best model that the budget buys."""
