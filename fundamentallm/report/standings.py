"""How configurations stand after runs with several seeds, and whether the first leads."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from fundamentallm.metrics import score_text
from fundamentallm.report.significance import judge_winner, pooled_noise
from fundamentallm.sweep.file.sweep_file import Metric


@dataclass(frozen=True)
class Standing:
    """A configuration's scores over seeds."""

    label: str
    scores: tuple[float, ...]
    diverged: int = 0
    """Seeds with which it did, beside those that have a score."""

    @property
    def mean(self) -> float:
        """Of the scores, of which there is one at least."""
        return statistics.fmean(self.scores)

    @property
    def spread(self) -> float:
        """Standard deviation; 0 of one score."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


def in_order(standings: Sequence[Standing], metric: Metric) -> list[Standing]:
    """The best mean first; after all others, those that diverged with a seed."""

    def place(each: Standing) -> tuple[bool, float]:
        return each.diverged > 0, metric.sign * each.mean if each.scores else math.inf

    return sorted(standings, key=place)


def verdict(standings: Sequence[Standing], metric: Metric) -> str:
    """Say whether the winner can be told from the rest, with the numbers that shows it.

    One that diverged with a seed is not compared. The test: `fundamentallm/report/significance.py`.
    """
    ranked = in_order([each for each in standings if each.scores and not each.diverged], metric)
    if not ranked:
        return "no configuration can be called best: each diverged with a seed or has no score"
    best, rest = ranked[0], ranked[1:]
    if not rest:
        alone = "is the only configuration"
        if len(standings) > 1:
            alone += " that has a score and never diverged"
        return f"{best.label} {alone}; there is nothing to compare it with"
    lead = f"{best.label} leads with {score_text(best.mean)}, {rest[0].label} follows with "
    lead += f"{score_text(rest[0].mean)}"
    by_mean = sorted((e for e in standings if e.scores), key=lambda e: metric.sign * e.mean)
    noise = pooled_noise([each.scores for each in by_mean])
    judged = judge_winner([each.scores for each in ranked], noise)
    if noise is None:
        return f"{lead}; this may be chance: no seed was repeated"
    if not judged.is_known:
        return f"{lead}; this may be chance: repeated seeds gave equal scores, so noise is unknown"
    basis = f"the noise between seeds is {score_text(noise.sigma)}"
    if judged.is_clear:
        return f"{lead}; this is more than chance ({basis})"
    doubtful = [f"{rest[i].label} (p = {judged.p_values[i]:.2g})" for i in judged.inseparable]
    return f"{lead}; this may be chance: {', '.join(doubtful)} may be as good ({basis})"
