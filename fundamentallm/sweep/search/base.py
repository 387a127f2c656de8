"""Search methods: the `Search` protocol, grid and random search; bayes is in bayes.py.

A search suggests the values of run `k` of a sweep, from 0, in this order. It keeps no state: its
answer depends on the sweep, its seed, `k` and the results of other runs. It never suggests values
that an earlier run has: with the same seed, that would be the same run.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import Any, Protocol, overload

from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.distributions import rounded_quantile, value_key
from fundamentallm.sweep.file.parameters import Parameter

Values = Mapping[str, Any]
"""Values of a run by `Parameter.name`."""
IsPossible = Callable[[Values], bool]
"""Test whether a run can have these values together."""
Groups = Sequence[tuple[tuple[str, ...], list[tuple[Any, ...]] | None]]
"""Parameters that exclude each other, with their possible combinations if they can be listed."""

ScoredRun = tuple[Values, float | None]
"""Values of a run and its score; lower is better, None while there is none."""

OFF = 1e-6
"""Distance from an end that is impossible itself, as a share of the range."""
MOST_CONFIGURATIONS = 100_000
MOST_DRAWS = 10_000
MOST_LISTED = 1_000
"""Largest search space whose configurations are listed."""
MOST_REPEATS = 200
"""Draws from a listed space before one of the configurations that are left is taken."""


@dataclass(frozen=True)
class PastRun:
    """A run that a search may learn from."""

    values: Values
    score: float | None
    """Lower is better; None while the run has no score."""
    running: bool = False
    failed: bool = False
    """True if the run diverged or failed, so that its score, if any, does not count as it is."""


class LazyPastRuns(Sequence[PastRun]):
    """Runs that a search may learn from, with the keys of their values.

    Their scores take work for every run and are computed on first use.
    """

    def __init__(self, keys: Set[str], read: Callable[[], list[PastRun]]) -> None:
        self.keys, self.read = keys, read

    @cached_property
    def runs(self) -> list[PastRun]:
        """Return all runs."""
        return self.read()

    @overload
    def __getitem__(self, index: int) -> PastRun: ...
    @overload
    def __getitem__(self, index: slice) -> list[PastRun]: ...
    def __getitem__(self, index: int | slice) -> PastRun | list[PastRun]:
        return self.runs[index]

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[PastRun]:
        return iter(self.runs)


class Search(Protocol):
    """Method to choose values."""

    @property
    def size(self) -> int | None:
        """Return how many runs there can be; None for no limit."""
        ...

    def suggest(self, k: int, past_runs: Sequence[PastRun]) -> Values | None:
        """Return the values of run `k`, given earlier runs; None if no configuration is left.

        Raises:
            SweepError: No configuration is possible.
        """
        ...


class Grid:
    """All configurations of a grid in W&B's order: the last parameter varies fastest."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.names = [parameter.name for parameter in parameters]
        self.axes: list[Sequence[Any]] = [p.distribution.grid() or () for p in parameters]

    @property
    def count(self) -> int:
        """Return the number of configurations, which may be too large for `len`."""
        return prod(map(length_of, self.axes))

    def __iter__(self) -> Iterator[Values]:
        for index in range(self.count):
            indices = [0] * len(self.axes)
            for dimension in reversed(range(len(self.axes))):
                index, indices[dimension] = divmod(index, len(self.axes[dimension]))
            values = (axis[i] for axis, i in zip(self.axes, indices, strict=True))
            yield dict(zip(self.names, values, strict=True))


class ListSearch:
    """Configurations in a given order."""

    def __init__(self, configurations: Sequence[Values]) -> None:
        self.configurations = configurations

    @property
    def size(self) -> int:
        """Return the number of configurations."""
        return len(self.configurations)

    @cached_property
    def keys(self) -> list[str]:
        """Return the keys of the configurations."""
        return [key_of(configuration) for configuration in self.configurations]

    def suggest(self, k: int, past_runs: Sequence[PastRun]) -> Values | None:
        """Return the first configuration that no run has."""
        taken, pairs = keys_of(past_runs), zip(self.keys, self.configurations, strict=True)
        return next((configuration for key, configuration in pairs if key not in taken), None)


def key_of(values: Values) -> str:
    """Return a text that is equal for equal values."""
    return ",".join(f"{name}={value_key(values[name])}" for name in sorted(values))


def keys_of(past_runs: Sequence[PastRun]) -> Set[str]:
    """Return the keys of the runs' values."""
    return (
        past_runs.keys
        if isinstance(past_runs, LazyPastRuns)
        else {key_of(run.values) for run in past_runs}
    )


def every_configuration(
    parameters: Sequence[Parameter], is_possible: IsPossible
) -> dict[str, Values] | None:
    """Return the possible configurations by key; None if there are too many to list."""
    supports = [parameter.distribution.support() for parameter in parameters]
    lists = [support for support in supports if support is not None]
    if len(lists) < len(supports) or prod(map(length_of, lists)) > MOST_LISTED:
        return None
    names = [parameter.name for parameter in parameters]
    configurations = (dict(zip(names, values, strict=True)) for values in product(*lists))
    return {
        key_of(configuration): configuration
        for configuration in configurations
        if is_possible(configuration)
    }


class RandomSearch:
    """Random search without repeats: run `k` is the first new draw by the seed and `k`.

    So the number of workers does not change it.
    """

    def __init__(
        self, parameters: Sequence[Parameter], *, seed: int, is_possible: IsPossible
    ) -> None:
        self.parameters, self.seed, self.is_possible = parameters, seed, is_possible

    @cached_property
    def configurations(self) -> dict[str, Values] | None:
        """Return the possible configurations by key, if they can be listed."""
        return every_configuration(self.parameters, self.is_possible)

    @property
    def size(self) -> int | None:
        """Return the number of configurations, if they can be listed."""
        return len(self.configurations) if self.configurations else None

    def left(self, past_runs: Sequence[PastRun]) -> list[Values] | None:
        """Return the configurations that are left, if they can be listed."""
        if not self.configurations:
            return None
        taken = keys_of(past_runs)
        return [
            configuration for key, configuration in self.configurations.items() if key not in taken
        ]

    def suggest(self, k: int, past_runs: Sequence[PastRun]) -> Values | None:
        """Draw until the values are possible together and new.

        Raises:
            SweepError: No draw is possible.
        """
        left = self.left(past_runs)
        if left == []:
            return None
        dice = random.Random(f"{self.seed}:{k}")
        taken, repeats = keys_of(past_runs), 0
        values: Values = {}
        for _ in range(MOST_DRAWS if left is None else MOST_REPEATS):
            values = {
                p.name: rounded_quantile(p.distribution, _inside(dice)) for p in self.parameters
            }
            if key_of(values) in taken:
                repeats += 1
            elif self.is_possible(values):
                return values
        if left:
            return dice.choice(left)
        if repeats:  # a large space of which almost nothing is left
            return None
        raise SweepError(
            f"{MOST_DRAWS:,} draws gave no possible configuration; e.g. {dict(values)}"
        )


def _inside(dice: random.Random) -> float:
    """Draw from 0 to 1, both excluded: a normal distribution has no value there."""
    return dice.random() or 2.0**-54


def length_of(axis: Sequence[Any]) -> int:
    """Return `len`, or the largest integer where the length is too large for it."""
    try:
        return len(axis)
    except OverflowError:
        return sys.maxsize


def too_many_configurations(parameters: Sequence[Parameter]) -> str:
    """Return why a grid of these parameters is refused as too large; "" if it is not."""
    count = Grid(parameters).count
    if count <= MOST_CONFIGURATIONS:
        return ""
    return (
        f"the grid has {count:,} configurations; at most {MOST_CONFIGURATIONS:,} are allowed; "
        "remove values, or use method random"
    )


def grid_search(
    parameters: Sequence[Parameter], *, is_possible: IsPossible
) -> tuple[ListSearch, int]:
    """Return a search over the possible configurations of a grid, and the number left out.

    Raises:
        SweepError: The grid is too large, or no configuration of it is possible.
    """
    configurations = Grid(parameters)
    if too_large := too_many_configurations(parameters):
        raise SweepError(too_large)
    possible = [configuration for configuration in configurations if is_possible(configuration)]
    if not possible:
        raise SweepError(
            f"no configuration of the grid is possible; e.g. {next(iter(configurations))}"
        )
    return ListSearch(possible), configurations.count - len(possible)
