"""Search by a model of what was found: Optuna's samplers, over a space made for them.

What the samplers see is not the file's parameters. Numbers in `values` become their rank, for
the space between 128 and 256 is known to lie between; a distribution becomes the share u of it
that lies below, so that a rate is searched in logs where the file says so; and parameters that
do not all go together become one choice among the combinations that do.
Measured in docs/dev/search.md.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fundamentallm.sweep.file.distributions import Continuous, IntUniform, same_key, suggested
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
GP_LONGEST = 200  # runs; its time for a suggestion grows with their number
MOST_RANKS = 10_000  # of whole numbers; the sampler writes down every one
GP_STARTS = 4  # runs before the model is asked; Optuna's own 10 are worse (docs/dev/search.md)
OFF = 1e-6  # how far inside a value lies where the end itself cannot be: a share of the range
Groups = Sequence[tuple[tuple[str, ...], list[tuple[Any, ...]] | None]]


class Axis(Protocol):
    """One dimension of the space that a sampler sees."""

    @property
    def label(self) -> str:
        """What the sampler calls it."""
        ...

    def distribution(self) -> BaseDistribution:
        """What the sampler may ask for."""
        ...

    def values(self, coordinate: Any) -> Values:
        """What that means in the file."""
        ...

    def coordinate(self, values: Values) -> Any:
        """The way back.

        Raises:
            ValueError: It is none that this axis has.
        """
        ...


@dataclass(frozen=True)
class Share:
    """A distribution, by the share of it that lies below a value."""

    parameter: Parameter

    @property
    def label(self) -> str:
        """The parameter's name."""
        return self.parameter.name

    def distribution(self) -> BaseDistribution:
        """A number between 0 and 1; without these where the distribution has no ends."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self._least, 1 - self._least)

    def values(self, coordinate: Any) -> Values:
        """The quantile, in few digits."""
        return {self.label: suggested(self.parameter.distribution, coordinate)}

    def coordinate(self, values: Values) -> Any:
        """The position."""
        share = self.parameter.distribution.position(values[self.label])
        return min(max(share, self._least), 1 - self._least)

    @property
    def _least(self) -> float:
        distribution = self.parameter.distribution
        return OFF if isinstance(distribution, Continuous) and distribution.is_endless else 0.0


@dataclass(frozen=True)
class Rank:
    """Numbers by their order."""

    label: str
    numbers: Sequence[Any]
    """Rising."""

    def distribution(self) -> BaseDistribution:
        """A place in the order."""
        from optuna.distributions import IntDistribution

        return IntDistribution(0, len(self.numbers) - 1)

    def values(self, coordinate: Any) -> Values:
        """The number in that place."""
        return {self.label: self.numbers[coordinate]}

    def coordinate(self, values: Values) -> Any:
        """The number's place."""
        return self.numbers.index(values[self.label])


@dataclass(frozen=True)
class Choice:
    """One of several, in no order: texts, or combinations of parameters that go together."""

    names: tuple[str, ...]
    options: Sequence[tuple[Any, ...]]

    @property
    def label(self) -> str:
        """The names."""
        return "+".join(self.names)

    def distribution(self) -> BaseDistribution:
        """A number for each."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(tuple(range(len(self.options))))

    def values(self, coordinate: Any) -> Values:
        """What that number stands for."""
        return dict(zip(self.names, self.options[coordinate], strict=True))

    def coordinate(self, values: Values) -> Any:
        """The number that stands for them."""
        wanted = [same_key(values[name]) for name in self.names]
        return [[same_key(v) for v in option] for option in self.options].index(wanted)


def axes(parameters: Sequence[Parameter], groups: Groups) -> list[Axis]:
    """The space for the searched parameters, of which `groups` must be chosen together."""
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
    """Suggestions of a sampler that is made anew for each, from the runs before it.

    So a sweep that was interrupted suggests what an unbroken one would, where one run is made
    at a time; with several at once it depends on which had ended.
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
        """Nothing is imported or computed until a suggestion is asked for.

        Args:
            parameters: All of the sweep's, constants among them.
            seed: Of the sweep.
            is_possible: What may not be suggested.
            groups: `SearchSpace.together`.
            defaults: Tried first, if given and possible.
            sampler: One of SAMPLERS.
            gp_longest: From this run on `gp` gives way to `tpe`; None for never.
        """
        self.parameters, self.seed, self.is_possible = parameters, seed, is_possible
        self.defaults, self.sampler, self.gp_longest = defaults, sampler, gp_longest
        self.axes = axes(parameters, groups)
        self.fallback = RandomSearch(parameters, seed=seed, is_possible=is_possible)
        self.constants = {p.name: p.distribution.quantile(0.5) for p in parameters if p.is_constant}

    @property
    def size(self) -> int | None:
        """As many as there are points, where they can be listed."""
        return self.fallback.size

    def suggest(self, k: int, past_runs: Sequence[PastRun]) -> Values | None:
        """The defaults first, then what the sampler hopes most of."""
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
            warnings.simplefilter("ignore")  # GPSampler calls itself experimental
            study = optuna.create_study(sampler=self._make_sampler(k))
            for run, score in scored(past_runs):
                try:
                    place = {axis.label: axis.coordinate(run.values) for axis in self.axes}
                except ValueError:
                    continue  # tried with a value that the file no longer has
                state = optuna.trial.TrialState
                study.add_trial(
                    optuna.create_trial(
                        params=place,
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
        """`values` a little inside of each range whose very end they have: no run may have it."""
        moved = dict(values)
        for parameter in self.parameters:
            distribution = parameter.distribution
            if isinstance(distribution, Continuous):
                share = distribution.position(values[parameter.name])
                if not OFF <= share <= 1 - OFF:
                    moved[parameter.name] = distribution.quantile(min(max(share, OFF), 1 - OFF))
        return moved

    def _nearest(self, values: Values, before: Collection[Any]) -> Values | None:
        """Possible values that differ from `values` in one parameter, as little as may be.

        None that were tried `before`: a run of the same values and seed is the same run.
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
    """What the sampler is told of each run: a failed one scores as the worst that did not fail.

    Ignored, it would be tried again; told as it is, a loss of thousands would hide the rest.
    A failed run whose own score is worse than all others is told as it is if nothing else is
    known. A run in progress without a score is told as such.
    """
    good = [run.score for run in past_runs if run.score is not None and not run.failed]
    bad = [run.score for run in past_runs if run.score is not None and run.failed]
    worst = max(good or bad, default=None)
    told: list[tuple[PastRun, float | None]] = []
    for run in past_runs:
        if run.failed:
            if worst is not None:
                told.append((run, worst))
        elif run.score is not None or run.running:
            told.append((run, run.score))
    return told
