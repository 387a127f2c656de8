"""Standings of configurations over several seeds, and the verdict on the first."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from fundamentallm.metrics import score_text
from fundamentallm.significance import judge_winner, pooled_noise, ties
from fundamentallm.sweep.file.sweep_file import Metric


@dataclass(frozen=True)
class Standing:
    """A configuration's scores over seeds."""

    label: str
    scores: tuple[float, ...]
    diverged: int = 0
    """Number of seeds that diverged, beside those with a score."""
    reused: int = 0
    """Number of runs that continued from a shorter one."""

    @property
    def mean(self) -> float:
        """Mean of the scores, of which there is at least one."""
        return statistics.fmean(self.scores)

    @property
    def spread(self) -> float:
        """Standard deviation; 0 for one score."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


def sort_standings(standings: Sequence[Standing], metric: Metric) -> list[Standing]:
    """Sort by mean, best first; those that diverged with a seed come last."""

    def key(each: Standing) -> tuple[bool, float]:
        return each.diverged > 0, metric.sign * each.mean if each.scores else math.inf

    return sorted(standings, key=key)


def verdict(standings: Sequence[Standing], metric: Metric) -> str:
    """Return a sentence on whether the winner beats the rest by more than chance, with numbers.

    Configurations that diverged with a seed are not compared. Test: `significance.py`.
    """
    ranked = sort_standings(
        [each for each in standings if each.scores and not each.diverged], metric
    )
    if not ranked:
        return "no configuration can be called best: each diverged with a seed or has no score"
    best, rest = ranked[0], ranked[1:]
    if not rest:
        alone = "is the only configuration"
        if len(standings) > 1:
            alone += " that has a score and never diverged"
        return f"{best.label} {alone}; there is nothing to compare it with"
    if ties(best.mean, rest[0].mean):
        return (
            f"{best.label} and {rest[0].label} tie at {score_text(best.mean)}; nothing tells them "
            "apart"
        )
    text = f"{best.label} leads with {score_text(best.mean)}, {rest[0].label} follows with "
    text += f"{score_text(rest[0].mean)}"
    by_mean = sorted((e for e in standings if e.scores), key=lambda e: metric.sign * e.mean)
    noise = pooled_noise([each.scores for each in by_mean])
    judged = judge_winner([each.scores for each in ranked], noise)
    if noise is None:
        return f"{text}; this may be chance: no seed was repeated"
    if not judged.is_known:
        return f"{text}; this may be chance: repeated seeds gave equal scores, so noise is unknown"
    basis = f"the noise between seeds is {score_text(noise.sigma)}"
    if judged.is_clear:
        return f"{text}; this is more than chance ({basis})"
    doubtful = [f"{rest[i].label} (p = {judged.p_values[i]:.2g})" for i in judged.inseparable]
    return f"{text}; this may be chance: {', '.join(doubtful)} may be as good ({basis})"
