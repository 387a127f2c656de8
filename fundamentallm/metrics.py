"""Metrics of a run and their meanings; docs/metrics.md is generated from them."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

METRICS: Mapping[str, str] = {
    "epoch": "epochs done",
    "tokens": "tokens trained on",
    "train_loss": "mean loss since the last row, in nats a token, with dropout",
    "train_perplexity": "exp(`train_loss`)",
    "val_loss": "mean loss on the validation part (its first 1,048,576 tokens), without dropout",
    "val_perplexity": "exp(`val_loss`); a uniform guess scores the size of the vocabulary",
    "val_bits_per_char": "`val_loss` in bits a character; comparable across vocabularies",
    "best_val_loss": "lowest `val_loss` so far",
    "optim/learning_rate": "learning rate of the last step",
    "optim/grad_norm": "gradient norm of the last step, unclipped; absent if float16 overflowed",
    "perf/tokens_per_second": "training tokens a second since the last row, without evaluations",
    "perf/memory_gb": "peak memory of the GPU, or else of the process, in units of 10^9 bytes",
}

LARGER_IS_BETTER = ("perf/tokens_per_second",)

OF_EVALUATIONS = ("val_loss", "val_perplexity", "val_bits_per_char", "best_val_loss")
"""Metrics that only the row of an evaluation has."""


def score_text(value: float | None) -> str:
    """Format a metric for people: 1.4321, 55.767, 26485, 1.235e+50; "" for None."""
    if value is None:
        return ""
    size = abs(value)
    if not math.isfinite(size) or size >= 1e7 or 0 < size < 1e-3:
        return f"{value:.4g}"
    before_point = len(str(int(size)))
    return f"{value:.{max(0, 5 - before_point)}f}"


def finite(value: Any) -> float | None:
    """Return a finite number unchanged, and None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) <= sys.float_info.max else None


def duration_text(seconds: float) -> str:
    """Return a time for people: 45 s, 7.7 min, 95 min, 2.5 h."""
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    digits = 1 if minutes < 10 else 0
    return f"{minutes:.{digits}f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def runs_text(number: int) -> str:
    """Return a number of runs: `1 run`, `8 runs`."""
    return f"{number} run{'' if number == 1 else 's'}"


def size_text(size: float) -> str:
    """Return a number of bytes for people: 12 kB, 340 MB, 1.2 GB."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
