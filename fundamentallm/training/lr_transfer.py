"""Transfer of the learning rate: from short runs, where it was found, to a longer run.

The optimizer's scaling covers the width (optimizer.py). docs/dev/experiments.md has the
measurements behind the exponents.
"""

from __future__ import annotations

TOKENS_EXPONENT = -0.55
"""Measured from 300 to 2,400 steps under `wsd`. Bjorck et al. ("Scaling optimal LR across token
horizons", arXiv 2409.19913) found -0.32 for AdamW, billions of tokens and cosine decay."""
BATCH_EXPONENT = 0.5
"""Square-root rule, for batches of equally many tokens in all."""


def scaled_learning_rate(
    rate: float, *, batch_from: float, batch_to: float, tokens_from: float, tokens_to: float
) -> float:
    """Return the learning rate for another length and batch size, given the best at the first.

    Args:
        rate: Best learning rate of runs over `tokens_from` tokens.
        batch_from: Sequences, or tokens, in a step of those runs.
        batch_to: The same of the new run.
        tokens_from: Tokens that those runs read, repeats included.
        tokens_to: Tokens that the new run will read.
    """
    longer, larger = tokens_to / tokens_from, batch_to / batch_from
    return rate * longer**TOKENS_EXPONENT * larger**BATCH_EXPONENT
