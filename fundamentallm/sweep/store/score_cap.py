"""How bad a score may count, so that one run beyond the cliff does not hide all the others.

Real runs that diverge stay finite for long: a loss of 7, 127 or 26,485 where the others differ by
tenths. Files and storage keep such values. Whatever compares runs (the search, the regression, the
axes of a chart, means in a text) reads them through a `ScoreCap`: no run of our trainer counts as
worse than a uniform guess, and no run of another program as lying farther out than the spread of
the better half of the runs allows (winsorizing: Tukey, The Future of Data Analysis, 1962).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fundamentallm.sweep.file.sweep_file import Metric

IN_NATS = ("val_loss", "best_val_loss", "train_loss")
PERPLEXITIES = ("val_perplexity", "train_perplexity")
FARTHEST = 10.0
"""Beyond the median, in spreads of the better half. Of 30 runs at random in a quadratic valley the
worst lies farther out in one sweep of ten, and then not by much."""


def score_of_guess(metric: Metric, summary: Mapping[str, Any]) -> float | None:
    """Score of a uniform guess by `metric`; None where the run is not our trainer's, or no loss."""
    size = _positive(summary, "vocabulary_size")
    if metric.goal != "minimize" or size is None:
        return None
    if metric.name in IN_NATS:
        return math.log(size)
    if metric.name in PERPLEXITIES:
        return size
    width = _positive(summary, "characters_per_token")
    if metric.name != "val_bits_per_char" or width is None:
        return None
    return math.log2(size) / width


@dataclass(frozen=True)
class ScoreCap:
    """What no run counts as worse than; less is better."""

    shared: float
    """Of a run whose own uniform guess is not known."""

    @classmethod
    def of(cls, losses: Sequence[float], guesses: Iterable[float | None]) -> ScoreCap:
        """Cap for runs that are compared, from their losses and their uniform guesses."""
        known = [guess for guess in guesses if guess is not None]
        return cls(max(known) if known else farthest(losses))

    def loss(self, loss: float, guess: float | None) -> float:
        """What a run with `loss` counts as; `guess` is its own `score_of_guess`."""
        return min(loss, self.shared if guess is None else guess)


def farthest(values: Sequence[float]) -> float:
    """How large a value may be beside the others; infinite if their better half does not differ."""
    better = sorted(values)[: (len(values) + 1) // 2]
    spread = better[-1] - better[0] if better else 0.0
    return better[-1] + FARTHEST * spread if spread > 0 else math.inf


def _positive(summary: Mapping[str, Any], name: str) -> float | None:
    value = summary.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value <= sys.float_info.max else None
