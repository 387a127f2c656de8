"""Runs that diverged, gradients that were clipped, losses that jumped at the start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fundamentallm.config.fields import shown
from fundamentallm.report.factors import Factor, find_factors
from fundamentallm.report.results import RunResult
from fundamentallm.report.rules.claim import Claim, Evidence, count_text
from fundamentallm.status import RunStatus

MAX_P = 0.02
"""Largest p of a setting that explains divergence."""
PERMUTATIONS = 2_000
MIN_JUMP = 0.1
"""Share by which a training loss must rise above its minimum so far."""


def divergence(evidence: Evidence) -> list[Claim]:
    """Report the setting that best separates diverged runs, if it beats chance.

    Source: a permutation test of the largest area under the ROC curve over all settings, which
    allows for having looked at each (Good, Permutation, Parametric and Bootstrap Tests, 2005).
    """
    runs = [
        run
        for run in evidence.results.observations
        if run.is_ranked or run.status == RunStatus.DIVERGED
    ]
    bad = np.array([run.status == RunStatus.DIVERGED for run in runs])
    if not bad.any():
        return []
    how_many = f"{count_text(int(bad.sum()), len(runs))} diverged"
    if bad.all():
        return [
            Claim("divergence", "counted", f"{how_many}: lower the learning rate for all of them")
        ]
    factors, runs = find_factors(evidence.results, runs)
    bad = np.array([run.status == RunStatus.DIVERGED for run in runs])
    suspects = list(_suspects(factors, runs))
    if bad.all() or bad.sum() < 2 or not suspects:
        return [
            Claim("divergence", "counted", f"{how_many}; too few to tell which setting caused it")
        ]
    areas = [_area(suspect.positions, bad) for suspect in suspects]
    best = max(range(len(areas)), key=lambda i: (round(abs(areas[i] - 0.5), 9), areas[i] > 0.5))
    rng = np.random.default_rng(0)
    as_extreme = 0
    ranks = [_ranks(suspect.positions) for suspect in suspects]
    for _ in range(PERMUTATIONS):
        shuffled = rng.permutation(bad)
        most = max(abs(_area_by_ranks(rank, shuffled) - 0.5) for rank in ranks)
        as_extreme += most >= abs(areas[best] - 0.5) - 1e-12
    p = (as_extreme + 1) / (PERMUTATIONS + 1)
    where = _locate(suspects[best], areas[best] > 0.5, bad, p, how_many)
    if p < MAX_P:
        return [where]
    says = f"{how_many}; no setting explains it better than chance (p = {p:.2g})"
    if abs(areas[best] - 0.5) == 0.5:  # all on one side, and none on the other
        says = f"{where.says}; with so few, this may be chance"
    return [Claim("divergence", "scattered", says)]


@dataclass(frozen=True)
class _Suspect:
    """Setting that may cause divergence: a number, or one choice against the others."""

    factor: Factor
    positions: np.ndarray
    """Position of each run; for a choice, 1 where it was taken."""
    choice: str = ""


def _suspects(factors: Sequence[Factor], runs: Sequence[RunResult]) -> Iterator[_Suspect]:
    for factor in factors:
        positions = factor.positions(runs)
        if factor.is_numeric:
            yield _Suspect(factor, positions)
            continue
        for index, level in enumerate(factor.levels):
            yield _Suspect(factor, (positions == index).astype(float), shown(level))


def _locate(suspect: _Suspect, above: bool, bad: np.ndarray, p: float, how_many: str) -> Claim:
    """Report the value beyond which, or the choice with which, runs diverge."""
    factor, sign = suspect.factor, 1 if above else -1
    at = sign * suspect.positions
    thresholds = sorted(set(at))[1:]  # at the first all lie beyond
    errors = [int((bad != (at >= threshold)).sum()) for threshold in thresholds]
    threshold = thresholds[int(np.argmin(errors))]
    beyond = at >= threshold
    if suspect.choice:
        value, side = suspect.choice, "" if above else "not "
        where = f"with {factor.name} {side}{value}"
    else:
        value, side = shown(factor.value(sign * threshold)), "or more" if above else "or less"
        where = f"at {factor.name} {value} {side}"
    says = (
        f"{how_many}: {where} {int(bad[beyond].sum())} of {int(beyond.sum())} "
        f"did, elsewhere {int(bad[~beyond].sum())} of {int((~beyond).sum())} (p = {p:.2g})"
    )
    verdict = "choice" if suspect.choice else "high" if above else "low"
    return Claim("divergence", verdict, says, factor.name)


def _ranks(positions: np.ndarray) -> np.ndarray:
    """Return ranks from 1; ties share the mean."""
    _, inverse, counts = np.unique(positions, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def _area_by_ranks(ranks: np.ndarray, bad: np.ndarray) -> float:
    """Return the chance that a diverged run lies above another."""
    count = int(bad.sum())
    return float((ranks[bad].sum() - count * (count + 1) / 2) / (count * (len(bad) - count)))


def _area(positions: np.ndarray, bad: np.ndarray) -> float:
    return _area_by_ranks(_ranks(positions), bad)


def clipping(evidence: Evidence) -> list[Claim]:
    """Report that the gradient was clipped on more than half of the logged steps.

    Source: Google's tuning playbook, "How can optimization failures be debugged": if more than half
    of the updates are clipped, the clipping has become a way of lowering the learning rate.
    """
    shares: list[float] = []
    for run in evidence.complete:
        clip, norms = run.settings.get("gradient_clip"), run.curve("optim/grad_norm").values
        if isinstance(clip, int | float) and clip > 0 and norms:
            shares.append(sum(norm > clip for norm in norms) / len(norms))
    often = [share for share in shares if share > 0.5]
    if len(often) * 2 <= len(shares) or not shares:
        return []
    says = (
        f"in {count_text(len(often), len(shares))} gradient_clip acted on more than half of the "
        f"steps (median {np.median(often):.0%}): it works as a lower learning rate; raise "
        "gradient_clip, or lower learning_rate"
    )
    return [Claim("clipping", "clipping", says, "gradient_clip")]


def instability(evidence: Evidence) -> list[Claim]:
    """Report early jumps of the training loss, which warm-up prevents.

    Source: Google's tuning playbook, "How can optimization failures be debugged": early
    instability is what learning-rate warm-up mends; later instability is a matter of clipping.
    """
    judged, jumped = [], []
    for run in evidence.results.observations:
        values = run.curve("train_loss").values
        total = run.summary.get("total_steps") or 0
        steps = run.curve("train_loss").steps
        early = [v for s, v in zip(steps, values, strict=True) if s <= 0.2 * total]
        if len(early) < 4 or run.status not in (
            RunStatus.DONE,
            RunStatus.STOPPED,
            RunStatus.DIVERGED,
        ):
            continue
        if evidence.results.is_capped(run):  # beyond the cliff, where warm-up is no remedy
            continue
        judged.append(run)
        least = np.minimum.accumulate(early)[:-1]
        if float(np.max(np.array(early[1:]) / least)) > 1 + MIN_JUMP:
            jumped.append(run)
    if not evidence.are_enough(judged) or len(jumped) * 2 <= len(judged):
        return []
    given = [run.settings.get("warmup_steps") for run in jumped]
    warmups = sorted({int(steps) for steps in given if isinstance(steps, int | float)} or {0})
    total = int(np.median([run.summary["total_steps"] for run in jumped]))
    had = f"with warmup_steps {', '.join(map(str, warmups[:4]))}"
    more = f"try warmup_steps {max(1, total // 20)} to {total // 10}"
    if warmups[len(warmups) // 2] >= total // 10:
        more = "try a lower learning_rate"
    says = (
        f"in {count_text(len(jumped), len(judged))} the training loss jumped by more than "
        f"{MIN_JUMP:.0%} in the first fifth, {had}: {more}"
    )
    return [Claim("instability", "unstable", says, "warmup_steps")]
