"""Models as safetensors files, which PyTorch and other libraries read without this package."""

from __future__ import annotations

import json

from fundamentallm.errors import FundamentallmError
from fundamentallm.model.norm import EPSILON
from fundamentallm.model.size import mlp_width
from fundamentallm.training.checkpoint import Checkpoint


class SafetensorsError(FundamentallmError):
    """The package safetensors is missing."""


def safetensors_bytes(checkpoint: Checkpoint) -> bytes:
    """Return the weights as a safetensors file, with all that rebuilds the model in its metadata.

    Its `config` holds the hyperparameters, `vocabulary_size`, `mlp_width` and `norm_epsilon`; its
    `vocabulary` the tokenizer and the characters of tokens 1, 2, ... Both are JSON.

    Raises:
        SafetensorsError: The package safetensors is not installed.
        CheckpointError: The weights do not fit the configuration.
    """
    try:
        from safetensors.torch import save
    except ModuleNotFoundError:
        raise SafetensorsError(
            "--safetensors needs the package safetensors; install it with: "
            "pip install 'fundamentallm[safetensors]'"
        ) from None
    config = {
        **vars(checkpoint.config),
        "vocabulary_size": len(checkpoint.vocabulary),
        "mlp_width": mlp_width(checkpoint.config),
        "norm_epsilon": EPSILON,
    }
    metadata = {
        "format": "pt",
        "config": json.dumps(config),
        "vocabulary": json.dumps(vars(checkpoint.vocabulary)),
    }
    return save(dict(checkpoint.build_model().state_dict()), metadata=metadata)
