"""Ranges of axes that no outlier stretches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fundamentallm.report.results import Results, RunResult
from fundamentallm.sweep.file.sweep_file import Metric
from fundamentallm.sweep.store.score_cap import farthest, score_of_guess

LOSS = Metric("val_loss")
MARGIN = 0.05
"""Share of an axis beyond its values."""
FENCE = 3.0
"""Interquartile ranges beyond the upper quartile: Tukey's outer fence (Exploratory Data Analysis,
1977)."""
FEWEST = 4
"""Scores that have quartiles."""


@dataclass(frozen=True)
class ScoreAxis:
    """An axis of scores: far worse ones are drawn at its end."""

    sign: int
    """1 if lower scores are better, else -1."""
    best: float
    """Least loss."""
    worst: float
    """Largest loss that is no outlier."""

    @classmethod
    def of(cls, results: Results, runs: Sequence[RunResult]) -> ScoreAxis:
        """Return the axis for the scores of `runs`, of which one or more are ranked."""
        losses = sorted(results.loss(run) for run in runs if run.is_ranked)
        worst = losses[-1]
        if len(losses) >= FEWEST:
            low, high = (losses[int(share * (len(losses) - 1))] for share in (0.25, 0.75))
            if high > low:
                worst = max(loss for loss in losses if loss <= high + FENCE * (high - low))
        return cls(results.metric.sign, losses[0], worst)

    @property
    def edge(self) -> float:
        """The score at which worse ones are drawn."""
        return self.sign * (self.worst + MARGIN * (self.worst - self.best))

    def is_beyond(self, results: Results, run: RunResult) -> bool:
        """Return whether a ranked run is an outlier, or scored beyond the cap."""
        return results.loss(run) > self.worst or results.is_capped(run)


def loss_range(results: Results, runs: Sequence[RunResult]) -> list[float] | None:
    """Return a range of losses that ignores the first tenth of each run and blow-ups."""
    runs = [run for run in runs if not results.is_capped(run)] or runs
    curves = [run.curve(metric) for run in runs for metric in ("val_loss", "train_loss")]
    late = [
        value
        for curve in curves
        for step, value in zip(curve.steps, curve.values, strict=True)
        if step >= curve.steps[-1] / 10
    ]
    if len(late) < 3:
        return None
    low, high = min(late), sorted(late)[int(0.98 * (len(late) - 1))]
    guesses = [score_of_guess(LOSS, run.summary) for run in runs]
    high = min([high, *(guess for guess in guesses if guess is not None and guess > low)])
    margin = MARGIN * (high - low) or 0.1
    return [low - margin, high + margin]


def metric_range(results: Results) -> list[float] | None:
    """Return a range of the metric without values that are far worse than the others."""
    sign = results.metric.sign
    curves = [run.curve(results.metric.name).values for run in results.runs]
    found = range_without_outliers([[sign * value for value in values] for values in curves])
    return found and sorted(sign * end for end in found)


def range_without_outliers(curves: Sequence[Sequence[float]]) -> list[float] | None:
    """Return a range without values far beyond the others; None if there are none."""
    values = [value for curve in curves for value in curve]
    if not values or max(values) <= farthest(values) or not math.isfinite(farthest(values)):
        return None
    low, high = min(values), farthest(values)
    return [low - MARGIN * (high - low), high]
