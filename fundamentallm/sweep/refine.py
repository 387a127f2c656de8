"""Coarse to fine: the best configurations of a sweep, and the sweep that repeats them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.metrics import score_text
from fundamentallm.significance import judge_winner, pooled_noise
from fundamentallm.status import RunStatus
from fundamentallm.sweep.check.warnings import LENGTHS
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.distributions import Continuous, IntUniform, value_key
from fundamentallm.sweep.file.sweep_file import Metric, SweepFile
from fundamentallm.sweep.search.seeds import SEED
from fundamentallm.sweep.search.space import SearchSpace, hyperparameter_names
from fundamentallm.sweep.store.records import Run, loss_by, why_unranked

NEAR = 0.05
"""Distance below which two values count as the same, as a share of their range's scale."""
REFINED = "# The best of"
"""First words of the file of a refined sweep."""


@dataclass(frozen=True)
class Finalist:
    """Configuration of a sweep, apart from the seed, with its runs."""

    settings: Mapping[str, Any]
    """Hyperparameters without seed and length, and `data` if the sweep gives it."""
    runs: tuple[Run, ...]
    losses: tuple[float, ...]
    """Capped losses, one for each seed."""
    has_diverged: bool
    """True if it diverged with another seed."""

    @property
    def loss(self) -> float:
        """Return the mean of the losses."""
        return statistics.fmean(self.losses)


def finalists(runs: Sequence[Run], space: SearchSpace, metric: Metric) -> list[Finalist]:
    """Return every configuration with a score, the best first; last those that diverged too.

    Raises:
        SweepError: No run has a score, e.g. because all diverged.
    """
    groups: dict[str, list[Run]] = {}
    diverged: set[str] = set()
    settings: dict[str, dict[str, Any]] = {}
    mapped = [p for p in space.sweep.parameters if p.has_mappings]
    names = [name for parameter in mapped for name in hyperparameter_names(parameter)]
    absent = {name: HYPERPARAMETERS[name].default for name in names}  # from some of the mappings
    for run in runs:
        if not (run.is_ranked or run.last.status == RunStatus.DIVERGED):
            continue
        own = {**absent, **space.settings(run.values)}
        own = {name: own[name] for name in sorted(own) if name not in (SEED, *LENGTHS)}
        if run.is_ranked:
            groups.setdefault(repr(own), []).append(run)
            settings[repr(own)] = own
        else:
            diverged.add(repr(own))
    if not groups:
        why = why_unranked(Counter(run.last.status for run in runs))
        why = why or f"no run has logged {metric.name}"
        raise SweepError(f"{space.sweep.name}: {why}; refine needs a run with a score")
    loss = loss_by(runs, metric)
    found = [
        Finalist(
            settings[key],
            tuple(members),
            tuple(_by_seed(members, space, loss).values()),
            key in diverged,
        )
        for key, members in groups.items()
    ]
    return sorted(found, key=lambda each: (each.has_diverged, each.loss))


def clearly_worse(kept: Sequence[Finalist], found: Sequence[Finalist]) -> str:
    """Return how many of those kept are worse than the best by more than chance; "" if none.

    The noise is that of the repeated seeds of all that were found.
    """
    noise = pooled_noise([each.losses for each in sorted(found, key=lambda each: each.loss)])
    judged = judge_winner([each.losses for each in kept if not each.has_diverged], noise)
    worse = len(judged.p_values) - len(judged.inseparable)
    if noise is None or not worse:
        return ""
    return (
        f"by the noise between seeds ({score_text(noise.sigma)}), {worse} of these {len(kept)} "
        f"{'was' if worse == 1 else 'were'} clearly worse than the best at the sweep's length; a "
        f"smaller --top leaves {'it' if worse == 1 else 'them'} out"
    )


def _by_seed(
    runs: Sequence[Run], space: SearchSpace, loss: Callable[[Run, float], float]
) -> dict[Any, float]:
    """Return the loss of each seed: the same configuration and seed is the same run."""
    return {
        space.settings(run.values).get(SEED): loss(run, run.last.score)
        for run in reversed(runs)
        if run.last.score is not None
    }


def distinct(found: Sequence[Finalist], space: SearchSpace, top: int) -> tuple[list[Finalist], int]:
    """Return the `top` best that differ enough from better ones, and how many were skipped."""
    kept: list[Finalist] = []
    skipped = 0
    for each in found:
        if len(kept) == top:
            break
        if any(_are_near(each, other, space) for other in kept):
            skipped += 1
        else:
            kept.append(each)
    return kept, skipped


def _are_near(one: Finalist, other: Finalist, space: SearchSpace) -> bool:
    """Return whether two differ only in numbers from ranges, and in each by less than `NEAR`."""
    for parameter in space.searched:
        names, distribution = hyperparameter_names(parameter), parameter.distribution
        if not any(name in one.settings or name in other.settings for name in names):
            continue  # seed, or length
        values = [each.runs[0].values[parameter.name] for each in (one, other)]
        if isinstance(distribution, Continuous | IntUniform):
            positions = [distribution.position(value) for value in values]
            if abs(positions[0] - positions[1]) >= NEAR:
                return False
        elif value_key(values[0]) != value_key(values[1]):
            return False
    return True


def refined_sweep(
    name: str, configurations: Sequence[Mapping[str, Any]], metric: Metric, source: str
) -> str:
    """Return a sweep file in W&B's format: a grid that contains all `configurations`."""
    parameters: dict[str, Any] = {}
    for parameter in configurations[0]:
        values = list(dict.fromkeys(each[parameter] for each in configurations))
        parameters[parameter] = {"value": values[0]} if len(values) == 1 else {"values": values}
    content = {
        "program": "train.py",
        "name": name,
        "method": "grid",
        "metric": {"name": metric.name, "goal": metric.goal},
        "parameters": parameters,
    }
    head = (
        f"{REFINED} {source} again. Only {len(configurations)} configurations of this grid run.\n"
    )
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def is_refined(sweep: SweepFile) -> bool:
    """Return whether `refined_sweep` wrote this sweep."""
    return sweep.text.startswith(REFINED)


def earlier_runs(found: Sequence[Finalist], space: SearchSpace) -> dict[str, Run]:
    """Return the run of every configuration and seed, by its `reuse_key`."""
    return {
        reuse_key({**each.settings, SEED: space.settings(run.values).get(SEED, 0)}): run
        for each in found
        for run in each.runs
    }


def reuse_key(settings: Mapping[str, Any]) -> str:
    """Return a key that is the same for settings that differ only in length."""
    return repr(sorted((name, each) for name, each in settings.items() if name not in LENGTHS))
