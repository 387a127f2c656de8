"""Length of runs, overfitting and underfitting, judged by curves."""

from __future__ import annotations

import numpy as np

from fundamentallm.metrics import score_text
from fundamentallm.report.results import Curve, RunResult
from fundamentallm.report.rules.claim import Claim, Evidence, count_text

MIN_EVALUATIONS = 6
"""Evaluations that a curve needs to be judged."""
MIN_SHARE = 0.6
"""Share of the judged runs that must agree."""
MIN_FALL = 0.004
"""Share by which a loss must fall in the last third of a run to count as falling."""
MIN_RISE = 0.005
"""Share by which a loss must rise after its minimum."""
MAX_GAP = 0.01
"""Share within which training and validation loss end without a gap."""
CONSTANT_SCHEDULES = ("constant",)


def still_falling(evidence: Evidence) -> list[Claim]:
    """Report that the validation loss was still falling when the better runs ended.

    Source: Google's tuning playbook, "Deciding how long to train": if the best step of most good
    runs is at the end, the run is too short. A rate that decays to the end makes every loss
    fall there, so only runs with a constant rate are judged.
    """
    judged = evidence.better_half(
        [
            run
            for run in evidence.complete
            if run.settings.get("lr_schedule", "constant") in CONSTANT_SCHEDULES
            and len(_val_curve(run)) >= 4
        ]
    )
    falls = [fall for run in judged if (fall := _fall(_val_curve(run))) is not None]
    if not evidence.are_enough(judged) or len(falls) < MIN_SHARE * len(judged):
        return []
    says = (
        f"val_loss was still falling in {count_text(len(falls), len(judged))}, by "
        f"{score_text(float(np.median(falls)))} in the last third (median): train longer before "
        "you compare"
    )
    return [Claim("still_falling", "falling", says)]


def best_early(evidence: Evidence) -> list[Claim]:
    """Report that the best step was in the first tenth of the better runs.

    Source: Google's tuning playbook, "Deciding how long to train": a best step in the first tenth
    means that runs are longer than they need be.
    """
    judged = evidence.better_half([run for run in evidence.complete if len(_val_curve(run)) >= 10])
    early = [run for run in judged if _best_share(_val_curve(run)) <= 0.1]
    if not evidence.are_enough(judged) or len(early) < MIN_SHARE * len(judged):
        return []
    says = f"the best step was in the first tenth of {count_text(len(early), len(judged))}"
    if 2 * sum(map(_train_rose, early)) > len(early):
        says += ", and train_loss rose after it too: the learning rate is too high; try a lower one"
        return [Claim("best_early", "too_high", says)]
    says += ": train for fewer steps, or set early_stopping"
    if 2 * sum(_rise(run) is not None for run in early) > len(early):
        says += "; after it the model memorized the text"
    return [Claim("best_early", "early", says)]


def overfitting(evidence: Evidence) -> list[Claim]:
    """Report that the validation loss rose while the training loss kept falling.

    Source: Goodfellow, Bengio and Courville, Deep Learning (2016), section 5.2 and 7.8.
    """
    judged = [run for run in evidence.complete if len(_val_curve(run)) >= MIN_EVALUATIONS]
    rises = [rise for run in judged if (rise := _rise(run)) is not None]
    if not evidence.are_enough(judged) or len(rises) < MIN_SHARE * len(judged):
        return []
    says = (
        f"overfitting in {count_text(len(rises), len(judged))}: val_loss rose by "
        f"{score_text(float(np.median(rises)))} (median) after its minimum, while train_loss fell; "
        "try more dropout or weight_decay, a smaller model, more text, or early_stopping"
    )
    return [Claim("overfitting", "overfitting", says)]


def underfitting(evidence: Evidence) -> list[Claim]:
    """Report that training and validation loss end together and no longer fall.

    Source: Goodfellow, Bengio and Courville, Deep Learning (2016), section 5.2: no gap between the
    two means that the model's capacity, or its training, is what limits it.
    """
    judged, together = [], []
    for run in evidence.complete:
        val, train = _val_curve(run), run.curve("train_loss")
        if len(val) < MIN_EVALUATIONS or len(train) < MIN_EVALUATIONS:
            continue
        judged.append(run)
        last = val.values[-1]
        gap = last - _last_mean(train)
        if gap < MAX_GAP * last and _fall(val) is None and _rise(run) is None:
            together.append(gap)
    if not evidence.are_enough(judged) or len(together) < MIN_SHARE * len(judged):
        return []
    says = (
        f"in {count_text(len(together), len(judged))} train_loss and val_loss end together (gap "
        f"{np.median(together):+.3f}, median) and no longer fall: try a larger model, less "
        "dropout, or another learning rate"
    )
    return [Claim("underfitting", "underfitting", says)]


def _val_curve(run: RunResult) -> Curve:
    return run.curve("val_loss")


def _evaluation_noise(values: np.ndarray) -> float:
    """Return the noise of one evaluation, from second differences."""
    if len(values) < 4:
        return 0.0
    return float(np.median(np.abs(np.diff(values, 2))) / 0.6745 / np.sqrt(6))


def _fall(curve: Curve) -> float | None:
    """Return how much a loss fell in the last third; None if within noise."""
    steps, values = np.array(curve.steps, float), np.array(curve.values)
    last = steps >= steps[-1] * 2 / 3
    if last.sum() < 3:
        last[-3:] = True
    x, y = steps[last], values[last]
    slope = float(np.polyfit(x, y, 1)[0])
    fall = -slope * (x[-1] - x[0])
    noise = _evaluation_noise(values[len(values) // 2 :]) * np.sqrt(12 / len(x))
    return fall if fall > max(MIN_FALL * values[-1], 3 * noise) else None


def _rise(run: RunResult) -> float | None:
    """Return how much a loss rose after its minimum while the training loss fell; else None."""
    val, train = _val_curve(run), run.curve("train_loss")
    values = np.array(val.values)
    best = int(values.argmin())
    rise = float(np.mean(values[-2:]) - values[best])
    noise = _evaluation_noise(values[len(values) // 2 :])
    if best > 0.8 * len(values) or rise < max(MIN_RISE * values[best], 4 * noise):
        return None
    before = _mean_before(train, val.steps[best])
    return None if before is None or _last_mean(train) >= before else rise


def _train_rose(run: RunResult) -> bool:
    """Return whether the training loss rose after the minimum of the validation loss."""
    val, train = _val_curve(run), run.curve("train_loss")
    before = _mean_before(train, val.steps[int(np.argmin(val.values))])
    return before is not None and _last_mean(train) > (1 + MIN_RISE) * before


def _mean_before(train: Curve, step: int) -> float | None:
    """Return the mean of the last three values up to a step; None if there is none."""
    values = [v for s, v in zip(train.steps, train.values, strict=True) if s <= step]
    return float(np.mean(values[-3:])) if values else None


def _best_share(curve: Curve) -> float:
    """Return the step of the minimum, as a share of the run."""
    return curve.steps[int(np.argmin(curve.values))] / curve.steps[-1]


def _last_mean(curve: Curve) -> float:
    """Return the mean of the last tenth, at least three values."""
    count = max(3, len(curve) // 10)
    return float(np.mean(curve.values[-count:]))
