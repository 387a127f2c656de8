"""Transfer of the learning rate: from the runs in which it was found to another run.

The best rate follows the number of steps: it falls with them, and hardly depends on what a step
reads. docs/dev/experiments.md has the measurements behind the exponents.
"""

from __future__ import annotations

TOKENS_EXPONENT = -0.35
"""At the same batch size, from 300 to 9,600 steps under `wsd` whose second half decays. With a
decay of a fifth the exponent is -0.59, to 2,400 steps. For AdamW, cosine decay and billions of
tokens it is -0.32 (Bjorck et al., "Scaling optimal LR across token horizons", arXiv 2409.19913)."""
BATCH_EXPONENT = 0.47
"""Over the same tokens: a batch twice as large takes half the steps. Over the same steps the
exponent is 0.12."""
WIDTH_EXPONENT = -0.21
"""Left over by the optimizer's own scaling, which keeps the layers' steps independent of width."""


def scaled_learning_rate(
    rate: float,
    *,
    batch_from: float,
    batch_to: float,
    tokens_from: float,
    tokens_to: float,
    width_from: float = 1.0,
    width_to: float = 1.0,
) -> float:
    """Return the learning rate for another length, batch size and width, given the best at one.

    Depth is no argument: from 2 to 6 layers the best rate has no trend.

    Args:
        rate: Best learning rate of runs over `tokens_from` tokens.
        batch_from: Sequences, or tokens, in a step of those runs.
        batch_to: The same of the new run.
        tokens_from: Tokens that those runs read, repeats included.
        tokens_to: Tokens that the new run will read.
        width_from: `model_dim` of those runs.
        width_to: The same of the new run.
    """
    longer, larger, wider = tokens_to / tokens_from, batch_to / batch_from, width_to / width_from
    return rate * longer**TOKENS_EXPONENT * larger**BATCH_EXPONENT * wider**WIDTH_EXPONENT
