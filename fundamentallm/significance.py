"""Significance test: is the best configuration better than the others by more than chance?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

SIGNIFICANT = 0.05
MIN_FREEDOM = 4  # degrees of freedom by which the better half alone may be judged


@dataclass(frozen=True)
class Noise:
    """Spread of runs of one configuration between seeds."""

    sigma: float
    """Standard deviation of one run."""
    freedom: int
    """Degrees of freedom of sigma, 1 or more."""
    repeated: int
    """Number of configurations that ran more than once."""


def pooled_noise(configurations: Sequence[Sequence[float]]) -> Noise | None:
    """Return the spread between seeds, pooled over repeated configurations; None without any.

    Only the better half counts if it has enough degrees of freedom: far from the best, near
    divergence say, runs are often far noisier.

    Args:
        configurations: Scores of each, one per seed; the best configuration first.
    """
    repeated = [scores for scores in configurations if len(scores) > 1]
    better = [
        scores for scores in configurations[: (len(configurations) + 1) // 2] if len(scores) > 1
    ]
    if sum(len(scores) - 1 for scores in better) >= MIN_FREEDOM:
        repeated = better
    freedom = sum(len(scores) - 1 for scores in repeated)
    if not freedom:
        return None
    squares = sum(statistics.variance(scores) * (len(scores) - 1) for scores in repeated)
    return Noise(math.sqrt(squares / freedom), freedom, len(repeated))


@dataclass(frozen=True)
class Verdict:
    """Comparison of the best configuration with each other one."""

    p_values: tuple[float, ...]
    """p of the best against each other configuration; empty if the noise is unknown."""

    @property
    def is_known(self) -> bool:
        """Return whether the noise between seeds allows a test."""
        return bool(self.p_values)

    @property
    def inseparable(self) -> list[int]:
        """Return indices of those that may be as good; 0 is the runner-up."""
        return [index for index, p in enumerate(self.p_values) if p >= SIGNIFICANT]

    @property
    def is_clear(self) -> bool:
        """Return whether the best is better than every other by more than chance."""
        return self.is_known and not self.inseparable


def ties(one: float, other: float) -> bool:
    """Return whether two means are equal but for rounding."""
    return math.isclose(one, other, rel_tol=1e-12)


def judge_winner(configurations: Sequence[Sequence[float]], noise: Noise | None) -> Verdict:
    """Test the best configuration against every other.

    Args:
        configurations: The scores of each, one per seed; the best configuration first, and none
            that diverged with a seed.
        noise: Noise between seeds; None or 0 if unknown.
    """
    if noise is None or noise.sigma == 0:
        return Verdict(())
    best, *others = configurations
    return Verdict(tuple(_p_value(best, other, noise) for other in others))


def _p_value(best: Sequence[float], other: Sequence[float], noise: Noise) -> float:
    """Return the two-sided p of the gap between two means.

    Source: Gutmann and Maymin, Is the selected population the best?, Annals of Statistics 15
    (1987): the best of many may be called best where the two-sided test of two would say so of it
    and the runner-up; it needs no correction for how many there were.
    """
    from scipy.special import stdtr  # a sweep without repeated seeds does not need it

    gap = abs(statistics.fmean(best) - statistics.fmean(other))
    error = noise.sigma * math.sqrt(1 / len(best) + 1 / len(other))
    return 2 * float(stdtr(noise.freedom, -gap / error))
