"""Work of an optimizer step, counted from the hyperparameters alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fundamentallm.config.hyperparameters import Config
from fundamentallm.model.size import mlp_width
from fundamentallm.training.plan import sequences_at_once

QUINTICS = 4
"""Iterations of Muon's orthogonalization (training/optimizer.py)."""


@dataclass(frozen=True)
class StepWork:
    """Operations of an optimizer step on a CPU."""

    multiplications: float
    """Multiplications for all tokens, forward and backward."""
    written: float
    """Numbers that layers write."""
    orthogonalizing: float
    """Multiplications of the optimizer, whatever the batch."""
    calls: int
    """Calls of layers."""


def step_work(config: Config, vocabulary: int) -> StepWork:
    """Return the work of a step; a `vocabulary` of 0 leaves out the head."""
    width, layers, hidden = config.model_dim, config.num_layers, mlp_width(config)
    tokens = config.tokens_per_step
    matrices = 4 * width**2 + 3 * width * hidden
    a_token = layers * (matrices + config.max_seq_len * width) + vocabulary * width
    # A quintic of a matrix, a by b: its square, a a b; the square's, a a a; their product, a a b.
    square, wide = 3 * width**3, 2 * width**2 * hidden + width**3
    batches = config.batch_size * config.gradient_accumulation
    return StepWork(
        multiplications=3.0 * tokens * a_token,  # forward once, backward twice
        written=10.0 * tokens * layers * (width + hidden),
        orthogonalizing=QUINTICS * layers * (4 * square + 3 * wide),
        calls=layers * math.ceil(batches / sequences_at_once(config, on_cpu=True)),
    )
