"""The transformer, with its own kernels for a CPU."""
