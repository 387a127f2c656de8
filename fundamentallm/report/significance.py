"""Whether the lead of the best over the next is more than chance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy.special import stdtr

SIGNIFICANT = 0.05
ENOUGH = 4  # degrees of freedom by which the better half alone may be judged


def pooled_noise(groups: Sequence[Sequence[float]]) -> tuple[float, int, int]:
    """How far runs that differ in the seed alone lie apart: standard deviation, degrees, groups.

    `groups` are the scores of configurations, the best first. Pooled over those that were
    repeated: over the better half, if that says enough, for what is far from the best, near
    divergence say, is often far noisier.
    """
    repeated = [group for group in groups if len(group) > 1]
    better = [group for group in groups[: (len(groups) + 1) // 2] if len(group) > 1]
    if sum(len(group) - 1 for group in better) >= ENOUGH:
        repeated = better
    freedom = sum(len(group) - 1 for group in repeated)
    squares = sum(statistics.variance(group) * (len(group) - 1) for group in repeated)
    return math.sqrt(squares / freedom) if freedom else 0.0, freedom, len(repeated)


def p_value(gap: float, *, sigma: float, freedom: int, runs: tuple[int, int]) -> float:
    """How likely seeds alone make a lead of `gap` or more between two means: a two-sided p.

    Source: Gutmann and Maymin, Is the selected population the best?, Annals of Statistics 15
    (1987): the best of many may be called best where the two-sided test of two would say so of it
    and the runner-up; it needs no correction for how many there were.

    Args:
        gap: Between the means, 0 or more.
        sigma: The noise of a run, as seeds make it.
        freedom: Degrees of freedom that `sigma` stands on, 1 or more.
        runs: How many each mean is of.
    """
    error = sigma * math.sqrt(sum(1 / count for count in runs))
    if error == 0:
        return float(gap == 0)
    return 2 * float(stdtr(freedom, -gap / error))
