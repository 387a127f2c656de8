"""Size of a model, from its hyperparameters alone, without torch."""

from __future__ import annotations

from fundamentallm.config.hyperparameters import Config


def mlp_width(config: Config) -> int:
    """Return the MLP's hidden width: 8/3 of `model_dim`, rounded to a multiple of 8."""
    return max(8, round(config.model_dim / 3) * 8)


def parameter_count(config: Config, vocabulary: int) -> int:
    """Return the number of weights in the model."""
    a_layer = 4 * config.model_dim**2 + 3 * config.model_dim * mlp_width(config)
    return config.num_layers * a_layer + (2 * vocabulary + 1) * config.model_dim
