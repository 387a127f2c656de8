"""Coarse to fine: which runs of a sweep are worth a longer look, and the sweep that takes it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from fundamentallm.config.hyperparameters import Config
from fundamentallm.config.parsing import DATA, read_config
from fundamentallm.errors import FundamentallmError
from fundamentallm.files.held_folder import HeldFolder
from fundamentallm.files.ownership import ends_with_mark
from fundamentallm.files.run_folder import MOST_STEPS, RunFolder
from fundamentallm.sweep.check.warnings import LENGTHS
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.distributions import Continuous, IntUniform, same_key
from fundamentallm.sweep.file.sweep_file import Metric, SweepFile
from fundamentallm.sweep.search.space import SearchSpace, hyperparameter_name
from fundamentallm.sweep.store.records import Run, loss_by
from fundamentallm.training.plan import Plan

NEAR = 0.05
"""As a share of a range, in the range's own scale: two values that lie closer are nearly one."""
MOST_COMPARED = 10_000_000
"""Steps of which the learning rate is compared with that of a longer run."""
REFINED = "# The best of"
"""How the file of such a sweep begins."""


@dataclass(frozen=True)
class Finalist:
    """A configuration of a sweep, seeds apart, with the runs that had it."""

    settings: Mapping[str, Any]
    """Hyperparameters, and `data` if the sweep gave it; without seed and length."""
    runs: tuple[Run, ...]
    score: float
    """Mean of the runs' scores, capped."""


def finalists(runs: Sequence[Run], points: SearchSpace, metric: Metric) -> list[Finalist]:
    """Every configuration with a score, the best first.

    Raises:
        SweepError: No run has finished.
    """
    groups: dict[str, list[Run]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for run in runs:
        if not run.is_ranked:
            continue
        own = points.settings(run.values)
        own = {name: own[name] for name in sorted(own) if name not in ("seed", *LENGTHS)}
        groups.setdefault(repr(own), []).append(run)
        settings[repr(own)] = own
    if not groups:
        raise SweepError(f"{points.sweep.name}: no run has finished yet; nothing can be refined")
    loss = loss_by(runs, metric)
    found = [
        Finalist(
            settings[key],
            tuple(members),
            metric.sign * statistics.fmean(_by_seed(members, points, loss).values()),
        )
        for key, members in groups.items()
    ]
    return sorted(found, key=lambda each: metric.sign * each.score)


def _by_seed(
    runs: Sequence[Run], points: SearchSpace, loss: Callable[[Run, float], float]
) -> dict[Any, float]:
    """The loss with each seed: the same configuration and seed is the same run."""
    return {
        points.settings(run.values).get("seed"): loss(run, run.last.score)
        for run in reversed(runs)
        if run.last.score is not None
    }


def distinct(
    found: Sequence[Finalist], points: SearchSpace, top: int
) -> tuple[list[Finalist], int]:
    """The `top` best of `found`, without those that are nearly a better one; how many these are."""
    kept: list[Finalist] = []
    passed_over = 0
    for each in found:
        if len(kept) == top:
            break
        if any(_are_near(each, other, points) for other in kept):
            passed_over += 1
        else:
            kept.append(each)
    return kept, passed_over


def _are_near(one: Finalist, other: Finalist, points: SearchSpace) -> bool:
    """Whether two differ in nothing but numbers from ranges, and in each by less than `NEAR`."""
    for parameter in points.searched:
        name, distribution = hyperparameter_name(parameter), parameter.distribution
        if name not in one.settings:  # seed, or length
            continue
        values = [each.runs[0].values[parameter.name] for each in (one, other)]
        if isinstance(distribution, Continuous | IntUniform):
            places = [distribution.position(value) for value in values]
            if abs(places[0] - places[1]) >= NEAR:
                return False
        elif same_key(values[0]) != same_key(values[1]):
            return False
    return True


def refined_sweep(
    name: str, points: Sequence[Mapping[str, Any]], metric: Metric, source: str
) -> str:
    """A sweep file that names every parameter of `points`; the points themselves are a part of it.

    It is W&B's format, as every sweep's, so that all that reads a sweep reads this one.
    """
    names = list(dict.fromkeys(name for point in points for name in point))
    parameters: dict[str, Any] = {}
    for each in names:
        values = list(dict.fromkeys(point[each] for point in points))
        parameters[each] = {"value": values[0]} if len(values) == 1 else {"values": values}
    content = {
        "program": "train.py",
        "name": name,
        "method": "grid",
        "metric": {"name": metric.name, "goal": metric.goal},
        "parameters": parameters,
    }
    head = f"{REFINED} {source} again. Only {len(points)} points of this grid are run.\n"
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def is_refined(sweep: SweepFile) -> bool:
    """Whether a sweep is one that `refined_sweep` has written."""
    return sweep.text.startswith(REFINED)


def continue_from(before: RunFolder, after: RunFolder, settings: Mapping[str, Any]) -> bool:
    """Let a longer run go on from a shorter one's checkpoint, if its schedule allows it.

    It does where every step that is done had the learning rate that it has in the longer run: with
    a constant rate, say, and not with a cosine, whose end has moved. Says whether it did.
    """
    rows = [row for row in before.rows() if row.get("epoch")]
    if after.path.exists() or not rows or not before.last.exists():
        return False
    last = rows[-1]
    try:
        known = read_config(before.read_config(), str(before.config))
        known = {name: value for name, value in known.items() if not name.startswith(DATA)}
        old, new = Config(**known), Config(**{**known, **settings})
    except FundamentallmError:  # files that no run has left so
        return False
    batches = last["step"] / last["epoch"] * old.gradient_accumulation
    if not 0.5 < batches < MOST_STEPS or last["step"] > MOST_COMPARED:
        return False
    plans = Plan(old, round(batches)), Plan(new, round(batches))
    if min(plan.total_steps for plan in plans) < last["step"]:
        return False
    for step in range(last["step"]):
        if plans[0].learning_rate(step) != plans[1].learning_rate(step):
            return False
    if not all(_is_whole(before, file.name) for file in (before.best, before.last)):
        return False
    after.create()
    # A checkpoint first: it proves that the folder is a run's, if this is killed in the middle.
    with (
        HeldFolder(before.path, before.root) as source,
        HeldFolder(after.path, after.root) as target,
    ):
        for file in (before.best, before.last, before.metrics, before.samples):
            if source.has(file.name):
                source.copy(file.name, target)
    return True


def _is_whole(folder: RunFolder, name: str) -> bool:
    """Whether a checkpoint is whole, if it is there: one of holes would fill the disk."""
    with HeldFolder(folder.path, folder.root) as held:
        if not held.has(name):
            return True
        with held.open(name, "rb") as file:
            return ends_with_mark(file)
