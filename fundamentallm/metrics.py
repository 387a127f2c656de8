"""What a run measures, and what each number means; docs/metrics.md is made of this."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

METRICS: Mapping[str, str] = {
    "epoch": "epochs done",
    "train_loss": "mean loss of the steps since the last row, nats a token, with dropout",
    "train_perplexity": "exp(`train_loss`)",
    "val_loss": "mean loss over the validation part (its first 1,048,576 tokens), without dropout",
    "val_perplexity": "exp(`val_loss`); a uniform guess scores the size of the vocabulary",
    "val_bits_per_char": "`val_loss` in bits a character, by which vocabularies can be compared",
    "best_val_loss": "the least `val_loss` so far",
    "optim/learning_rate": "of the step before",
    "optim/grad_norm": "of the step before, unclipped; not there where float16 overflowed",
    "perf/tokens_per_second": "training tokens over the time since the last row, evaluations left "
    "out",
    "perf/memory_gb": "peak so far: of the GPU, or of the process; in units of 10^9 bytes",
}

LARGER_IS_BETTER = ("perf/tokens_per_second",)

OF_EVALUATIONS = ("val_loss", "val_perplexity", "val_bits_per_char", "best_val_loss")
"""Those that only a row after an evaluation has."""


def score_text(value: float | None) -> str:
    """A loss or another metric as people read it: 1.4321, 55.767, 26485, 1.235e+50; "" for None."""
    if value is None:
        return ""
    size = abs(value)
    if not math.isfinite(size) or size >= 1e7 or 0 < size < 1e-3:
        return f"{value:.4g}"
    before_point = len(str(int(size)))
    return f"{value:.{max(0, 5 - before_point)}f}"


def finite(value: Any) -> float | None:
    """A finite number as it is; None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) <= sys.float_info.max else None
