"""Cap on bad scores, so that one diverging run does not hide the differences of the others.

Diverging runs often stay finite: a loss of 7, 127 or 26,485 where the others differ by tenths.
Files and storage keep such values. All that compares runs (the search, the regression, charts,
means) reads them through a `ScoreCap`. No run of our trainer counts as worse than a uniform
prediction. A run of another program is capped by the spread of the better half of the runs
(winsorizing: Tukey, The Future of Data Analysis, 1962).
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
"""Cap beyond the median, in spreads of the better half. Of 30 random runs in a quadratic valley,
the worst lies beyond it in one sweep of ten, and then not by much."""


def score_of_guess(metric: Metric, summary: Mapping[str, Any]) -> float | None:
    """Return the score of a uniform prediction; None if the metric or the summary has none."""
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
    """Highest loss that a run may count as."""

    shared: float
    """Cap of a run whose own `guess` is unknown."""

    @classmethod
    def of(cls, losses: Sequence[float], guesses: Iterable[float | None]) -> ScoreCap:
        """Return the cap for runs with these losses and scores of uniform predictions."""
        known = [guess for guess in guesses if guess is not None]
        return cls(max(known) if known else farthest(losses))

    def loss(self, loss: float, guess: float | None) -> float:
        """Return the capped loss of a run; `guess` is its own `score_of_guess`."""
        return min(loss, self.shared if guess is None else guess)


def farthest(values: Sequence[float]) -> float:
    """Return the cap from the values alone; infinite if the better half does not differ."""
    better = sorted(values)[: (len(values) + 1) // 2]
    spread = better[-1] - better[0] if better else 0.0
    return better[-1] + FARTHEST * spread if spread > 0 else math.inf


def _positive(summary: Mapping[str, Any], name: str) -> float | None:
    value = summary.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value <= sys.float_info.max else None
