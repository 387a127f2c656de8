"""Training a model: the loop, a step, the optimizer, evaluation and checkpoints."""
