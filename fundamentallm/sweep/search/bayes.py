"""Bayesian search: Optuna's samplers over a transformed search space.

The samplers do not see the file's parameters. Numbers in `values` become their rank, for their
order is known. A distribution becomes the share u that lies below a value, so that a rate is
searched on a log scale where the file says so. Parameters that exclude each other become one choice
among the possible combinations. Measurements: docs/dev/search.md.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fundamentallm.sweep.file.distributions import (
    Continuous,
    IntUniform,
    rounded_quantile,
    value_key,
)
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.search.base import (
    IsPossible,
    PastRun,
    RandomSearch,
    Values,
    key_of,
    keys_of,
)

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

SAMPLERS = ("gp", "tpe")
GP_LONGEST = 200
"""Most runs for the Gaussian process; its time for a suggestion grows with their number."""
MOST_RANKS = 10_000
"""Most whole numbers that become ranks; the sampler lists every one."""
GP_STARTS = 4
"""Random runs before the model; Optuna's default of 10 is worse (docs/dev/search.md)."""
OFF = 1e-6
"""Distance from an end that is impossible itself, as a share of the range."""
Groups = Sequence[tuple[tuple[str, ...], list[tuple[Any, ...]] | None]]


class Axis(Protocol):
    """Dimension of the space that a sampler sees."""

    @property
    def label(self) -> str:
        """Return its name for the sampler."""
        ...

    def distribution(self) -> BaseDistribution:
        """Return Optuna's distribution of the coordinate."""
        ...

    def values(self, coordinate: Any) -> Values:
        """Return the parameters' values at a coordinate."""
        ...

    def coordinate(self, values: Values) -> Any:
        """Return the coordinate of the parameters' values.

        Raises:
            ValueError: The axis does not have these values.
        """
        ...


@dataclass(frozen=True)
class Share:
    """Axis of a distribution: the share of it below a value."""

    parameter: Parameter

    @property
    def label(self) -> str:
        """Return the parameter's name."""
        return self.parameter.name

    def distribution(self) -> BaseDistribution:
        """Return the range from 0 to 1, ends excluded if the distribution is unbounded."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self._least, 1 - self._least)

    def values(self, coordinate: Any) -> Values:
        """Return the rounded quantile."""
        return {self.label: rounded_quantile(self.parameter.distribution, coordinate)}

    def coordinate(self, values: Values) -> Any:
        """Return the share below the value."""
        share = self.parameter.distribution.position(values[self.label])
        return min(max(share, self._least), 1 - self._least)

    @property
    def _least(self) -> float:
        distribution = self.parameter.distribution
        return OFF if isinstance(distribution, Continuous) and distribution.is_unbounded else 0.0


@dataclass(frozen=True)
class Rank:
    """Axis of numbers: their rank."""

    label: str
    numbers: Sequence[Any]
    """Numbers in rising order."""

    def distribution(self) -> BaseDistribution:
        """Return the range of ranks."""
        from optuna.distributions import IntDistribution

        return IntDistribution(0, len(self.numbers) - 1)

    def values(self, coordinate: Any) -> Values:
        """Return the number with a rank."""
        return {self.label: self.numbers[coordinate]}

    def coordinate(self, values: Values) -> Any:
        """Return the number's rank."""
        return self.numbers.index(values[self.label])


@dataclass(frozen=True)
class Choice:
    """Axis of unordered options: texts, or possible combinations of several parameters."""

    names: tuple[str, ...]
    options: Sequence[tuple[Any, ...]]

    @property
    def label(self) -> str:
        """Return the parameters' names."""
        return "+".join(self.names)

    def distribution(self) -> BaseDistribution:
        """Return the choice among the options' indices."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(tuple(range(len(self.options))))

    def values(self, coordinate: Any) -> Values:
        """Return the option with an index."""
        return dict(zip(self.names, self.options[coordinate], strict=True))

    def coordinate(self, values: Values) -> Any:
        """Return the option's index."""
        wanted = [value_key(values[name]) for name in self.names]
        return [[value_key(v) for v in option] for option in self.options].index(wanted)


def axes(parameters: Sequence[Parameter], groups: Groups) -> list[Axis]:
    """Return the axes of the searched parameters; each of `groups` is one axis."""
    grouped = {name for names, options in groups if options is not None for name in names}
    found: list[Axis] = [Choice(names, options) for names, options in groups if options is not None]
    for parameter in parameters:
        if parameter.is_constant or parameter.name in grouped:
            continue
        distribution = parameter.distribution
        if isinstance(distribution, Continuous):
            found.append(Share(parameter))
        elif isinstance(distribution, IntUniform):
            numbers = range(distribution.low, distribution.high + 1)
            few = len(numbers) <= MOST_RANKS
            found.append(Rank(parameter.name, numbers) if few else Share(parameter))
        else:
            values = distribution.choices  # pyright: ignore
            if all(type(value) in (int, float) for value in values):
                found.append(Rank(parameter.name, sorted(set(values))))
            else:
                found.append(Choice((parameter.name,), [(value,) for value in values]))
    return found


class BayesSearch:
    """Bayesian search that creates its sampler anew for each suggestion, from earlier runs.

    So a resumed sweep suggests the same values as an uninterrupted one, with one run at a time;
    with several, it depends on which have ended.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        *,
        seed: int,
        is_possible: IsPossible,
        groups: Groups = (),
        defaults: Values | None = None,
        sampler: str = "gp",
        gp_longest: int | None = None,
    ) -> None:
        """Optuna is imported at the first suggestion.

        Args:
            parameters: All parameters of the sweep, with constants.
            seed: Seed of the sweep.
            is_possible: Test for values.
            groups: Result of `SearchSpace.together`.
            defaults: Values of the first run, if given and possible.
            sampler: One of SAMPLERS.
            gp_longest: Run from which `tpe` replaces `gp`; None for never.
        """
        self.parameters, self.seed, self.is_possible = parameters, seed, is_possible
        self.defaults, self.sampler, self.gp_longest = defaults, sampler, gp_longest
        self.axes = axes(parameters, groups)
        self.fallback = RandomSearch(parameters, seed=seed, is_possible=is_possible)
        self.constants = {p.name: p.distribution.quantile(0.5) for p in parameters if p.is_constant}

    @property
    def size(self) -> int | None:
        """Return the number of configurations, if they can be listed."""
        return self.fallback.size

    def suggest(self, k: int, past_runs: Sequence[PastRun]) -> Values | None:
        """Return the defaults first, then what the sampler suggests."""
        if k == 0 and self.defaults is not None and self.is_possible(self.defaults):
            return self.defaults
        if not self.axes or self.fallback.left(past_runs) == []:
            return self.fallback.suggest(k, past_runs)
        values = self._ask(k, past_runs)
        if not self.is_possible(values):
            values = self._off_the_ends(values)
        before = keys_of(past_runs)
        if self.is_possible(values) and key_of(values) not in before:
            return values
        near = self._nearest(values, before)
        return near if near is not None else self.fallback.suggest(k, past_runs)

    def _ask(self, k: int, past_runs: Sequence[PastRun]) -> Values:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        space = {axis.label: axis.distribution() for axis in self.axes}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # GPSampler warns that it is experimental
            study = optuna.create_study(sampler=self._make_sampler(k))
            for run, score in scored(past_runs):
                try:
                    coordinates = {axis.label: axis.coordinate(run.values) for axis in self.axes}
                except ValueError:
                    continue  # the file no longer has a value of this run
                state = optuna.trial.TrialState
                study.add_trial(
                    optuna.create_trial(
                        params=coordinates,
                        distributions=space,
                        value=score,
                        state=state.RUNNING if score is None else state.COMPLETE,
                    )
                )
            asked = study.ask(fixed_distributions=space).params
        values = dict(self.constants)
        for axis in self.axes:
            values |= axis.values(asked[axis.label])
        return {p.name: values[p.name] for p in self.parameters}

    def _make_sampler(self, k: int) -> BaseSampler:
        import optuna

        seed = random.Random(f"{self.seed}:{k}").getrandbits(32)
        if self.sampler == "tpe" or (self.gp_longest is not None and k >= self.gp_longest):
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=GP_STARTS)

    def _off_the_ends(self, values: Values) -> Values:
        """Move values at the end of a range slightly inside, for the end may be impossible."""
        moved = dict(values)
        for parameter in self.parameters:
            distribution = parameter.distribution
            if isinstance(distribution, Continuous):
                share = distribution.position(values[parameter.name])
                if not OFF <= share <= 1 - OFF:
                    moved[parameter.name] = distribution.quantile(min(max(share, OFF), 1 - OFF))
        return moved

    def _nearest(self, values: Values, before: Collection[Any]) -> Values | None:
        """Return new possible values that differ least from `values`, in one parameter.

        None if there are none. Values in `before` were tried: with the same seed, a run of the same
        values is the same run.
        """
        best: tuple[float, Mapping[str, Any]] | None = None
        for parameter in self.parameters:
            grid = parameter.distribution.grid()
            if parameter.is_constant or grid is None or len(grid) > 10_000:
                continue
            here = parameter.distribution.position(values[parameter.name])
            for value in grid:
                distance = abs(parameter.distribution.position(value) - here)
                if best is None or distance < best[0]:
                    changed = {**values, parameter.name: value}
                    if self.is_possible(changed) and key_of(changed) not in before:
                        best = distance, changed
        return best[1] if best is not None else None


def scored(past_runs: Sequence[PastRun]) -> list[tuple[PastRun, float | None]]:
    """Return each run's score for the sampler; a failed run gets the worst of the others.

    If failed runs were left out, the sampler would suggest them again. With their own score, a loss
    of thousands would hide the differences of the others. It is used only if every run failed. A
    run in progress without a score has None.
    """
    good = [run.score for run in past_runs if run.score is not None and not run.failed]
    bad = [run.score for run in past_runs if run.score is not None and run.failed]
    worst = max(good or bad, default=None)
    scores: list[tuple[PastRun, float | None]] = []
    for run in past_runs:
        if run.failed:
            if worst is not None:
                scores.append((run, worst))
        elif run.score is not None or run.running:
            scores.append((run, run.score))
    return scores
