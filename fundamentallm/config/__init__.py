"""Settings of a run: every hyperparameter, presets, and names and values as people write them."""
