"""The transformer, with native kernels for CPUs."""
