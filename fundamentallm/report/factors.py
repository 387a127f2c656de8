"""The settings that a sweep varied, as positions that a model can be fitted to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fundamentallm.config.fields import shown
from fundamentallm.report.results import Results, RunResult, setting_key
from fundamentallm.sweep.check.warnings import LEAST_RATIO
from fundamentallm.sweep.file.distributions import Continuous

MIN_LOG_RATIO = 8  # times that the largest value is the least: doublings, decades
MAX_MISSING = 0.1  # of the runs, which may lack a setting and are then left out
MAX_LISTED = 8  # different values, up to which a factor is taken for a list of values


@dataclass(frozen=True)
class Factor:
    """A setting that was varied."""

    name: str
    levels: tuple[Any, ...]
    """Its distinct values; numbers in rising order, others by their text."""
    is_numeric: bool
    in_logs: bool

    def positions(self, runs: Sequence[RunResult]) -> np.ndarray[Any, Any]:
        """Return positions: 0 at the smallest value, 1 at the largest; of choices their index."""
        if not self.is_numeric:
            keys = [setting_key(level) for level in self.levels]
            return np.array(
                [keys.index(setting_key(run.settings[self.name])) for run in runs], float
            )
        return np.array([self.position(run.settings[self.name]) for run in runs])

    def position(self, value: float) -> float:
        """Return the position of a number: 0 at the smallest value tried, 1 at the largest."""
        low, high, at = (self._scaled(each) for each in (self.levels[0], self.levels[-1], value))
        return (at - low) / (high - low)

    def value(self, position: float) -> float:
        """Return the number at a position."""
        low, high = self._scaled(self.levels[0]), self._scaled(self.levels[-1])
        at = low + position * (high - low)
        return math.exp(at) if self.in_logs else at

    @property
    def is_listed(self) -> bool:
        """Return whether few values were tried, each likely more than once."""
        return len(self.levels) <= MAX_LISTED

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.in_logs else float(value)


def find_factors(
    results: Results, runs: Sequence[RunResult]
) -> tuple[list[Factor], list[RunResult]]:
    """Return the settings in which `runs` differ, and the runs that have them.

    Left out: the seed, settings that define the loss, and runs without a setting most others have.
    """
    found: list[Factor] = []
    missing = Counter(name for run in runs for name in results.varied if name not in run.settings)
    known = [name for name in results.varied if missing[name] <= MAX_MISSING * len(runs)]
    runs = [run for run in runs if all(name in run.settings for name in known)]
    incomparable = set(results.loss_defining)
    if results.metric.name == "val_bits_per_char":  # by which tokenizers can be compared
        incomparable.discard("tokenizer")
    for name in results.varied:
        if results.is_seed(name) or name in incomparable or name not in known or not runs:
            continue
        values = [run.settings[name] for run in runs]
        numeric = all(type(value) in (int, float) for value in values)
        distinct = {setting_key(value): value for value in values}.values()
        levels = sorted(distinct, key=None if numeric else shown)
        if len(levels) > 1:
            logs = numeric and levels[0] > 0 and _in_logs(results, name, levels)
            found.append(Factor(name, tuple(levels), numeric, logs))
    return found, runs


def _in_logs(results: Results, name: str, levels: Sequence[float]) -> bool:
    parameter = results.parameters.get(name)
    if parameter is not None and isinstance(parameter.distribution, Continuous):
        low, high = parameter.distribution.ends
        return parameter.distribution.in_logs or (low > 0 and high / low >= LEAST_RATIO)
    return name == "learning_rate" or levels[-1] / levels[0] >= MIN_LOG_RATIO


def log_ticks(factor: Factor) -> dict[str, Any]:
    """Return round numbers on a logarithmic axis, as plotly takes them."""
    marks = list(factor.levels)
    if not factor.is_listed:
        low, high = (math.floor(math.log10(marks[0])), math.ceil(math.log10(marks[-1])))
        for kept in ((1, 2, 5), (1, 3), (1,)):
            marks = [k * 10.0**e for e in range(low, high + 1) for k in kept]
            marks = [m for m in marks if factor.levels[0] * 0.9 <= m <= factor.levels[-1] * 1.1]
            if len(marks) <= 5:
                break
    return {"tickvals": marks, "ticktext": [shown(mark) for mark in marks]}
