"""Tree-structured Parzen estimator (TPE) of Optuna, over transformed parameters.

The sampler does not see the file's parameters. Numbers in `values` become their rank, for their
order is known. A distribution becomes the share u that lies below a value, so that a rate is
searched on a log scale where the file says so. Parameters that exclude each other become one choice
among the possible combinations.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fundamentallm.sweep.file.distributions import (
    Continuous,
    IntUniform,
    rounded_quantile,
    value_key,
)
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.search.base import OFF, Groups, ScoredRun, Values, key_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MOST_RANKS = 10_000
"""Most whole numbers that become ranks; the sampler lists every one."""


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


def averaged(runs: Sequence[ScoredRun]) -> list[ScoredRun]:
    """Return each configuration once, with the mean of its scores; None while there is none."""
    scores: dict[str, list[float]] = {}
    first: dict[str, Values] = {}
    for values, score in runs:
        key = key_of(values)
        first.setdefault(key, values)
        scores.setdefault(key, []).extend([] if score is None else [score])
    return [
        (values, sum(scores[key]) / len(scores[key]) if scores[key] else None)
        for key, values in first.items()
    ]


class TpeSampler:
    """Optuna's TPE, created anew for each suggestion."""

    def __init__(self, parameters: Sequence[Parameter], groups: Groups) -> None:
        """Optuna is imported at the first suggestion; arguments as of `BayesSearch`."""
        self.parameters = parameters
        self.axes = axes(parameters, groups)
        self.constants = {p.name: p.distribution.quantile(0.5) for p in parameters if p.is_constant}

    def suggestions(self, runs: Sequence[ScoredRun], seed: int) -> Iterator[Values]:
        """Yield one configuration."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        space = {axis.label: axis.distribution() for axis in self.axes}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `multivariate` and `group` are experimental
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)
            study = optuna.create_study(sampler=sampler)
            for values, score in averaged(runs):
                try:
                    coordinates = {axis.label: axis.coordinate(values) for axis in self.axes}
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
        yield {p.name: values[p.name] for p in self.parameters}
