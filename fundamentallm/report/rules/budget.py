"""Budget: would more runs of the same kind pay?"""

from __future__ import annotations

import numpy as np

from fundamentallm.metrics import score_text
from fundamentallm.report.rules.claim import Claim, Evidence

MIN_WORTHWHILE, MAX_WASTEFUL = 3.0, 1.5
"""Gains, as multiples of the noise, that are and are not worth the runs; noise alone gains some."""
MAX_RESIDUAL = 0.5
"""Share of the spread of all losses; a larger residual is not noise."""


def more_runs(evidence: Evidence) -> list[Claim]:
    """Estimate the gain from as many runs again, drawn in the same way.

    Source: the expected best of n (Dodge et al., Show Your Work, EMNLP 2019): the gain from
    the best of a quarter to the best of half of the runs, to the best of all, goes on.
    """
    results, sigma = evidence.results, evidence.sigma
    if results.sweep is None or results.sweep.method != "random" or not sigma or evidence.rung:
        return []
    losses = np.array([results.loss(run) for run in results.comparable])
    if evidence.noise is None and sigma > MAX_RESIDUAL * float(np.std(losses)):
        return []  # what the fit leaves over is no noise: it has learned next to nothing
    if len(losses) < 8:
        return []
    quarter, half, whole = (_expected_best(losses, len(losses) // part) for part in (4, 2, 1))
    before, last = quarter - half, half - whole
    gain = last * min(1.0, last / before) if before > 0 else 0.0
    sign = results.metric.sign
    numbers = (
        f"the best of {len(losses) // 2} runs is {score_text(sign * half)} on average, of "
        f"{len(losses)} {score_text(sign * whole)}"
    )
    if gain > 0:
        times = f"{gain / sigma:.1f} times" if gain > 0.1 * sigma else "less than a tenth of"
        numbers += (
            f"; as many again would gain about {score_text(gain)}, {times} {evidence.sigma_source}"
        )
    if gain < MAX_WASTEFUL * sigma:
        says = f"more runs like these would hardly help: {numbers}; repeat the best over seeds"
        return [Claim("more_runs", "waste", says)]
    if gain >= MIN_WORTHWHILE * sigma:
        return [Claim("more_runs", "help", f"more runs would help: {numbers}")]
    return []


def _expected_best(losses: np.ndarray, count: int) -> float:
    """Return the mean of the least of `count` losses, drawn without replacement.

    The i-th least of n, from 0, is it with chance C(n - 1 - i, count - 1) / C(n, count).
    """
    n = len(losses)
    i = np.arange(n - count)
    chances = count / n * np.cumprod(np.append(1.0, (n - count - i) / (n - 1 - i)))
    return float(chances @ np.sort(losses)[: n - count + 1])
