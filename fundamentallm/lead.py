"""Whether the lead of the best over the next is more than chance."""

from __future__ import annotations

import math

from scipy.special import stdtr

SIGNIFICANT = 0.05


def chance_of(gap: float, *, sigma: float, freedom: int, runs: tuple[int, int]) -> float:
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
