"""Which values a run tries: `Search`, with grid and random search; bayes is in bayes.py.

A search answers for run `k` of a sweep, counted from 0, and is asked in that order. It holds no
state of its own: what it says depends on the sweep, its seed, `k` and what other runs found. None
suggests values that a run before it has: with the same seed, that would be the same run.
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
from fundamentallm.sweep.file.distributions import same_key, suggested
from fundamentallm.sweep.file.parameters import Parameter

Values = Mapping[str, Any]
"""What a run tries, by `Parameter.name`."""
IsPossible = Callable[[Values], bool]
"""Whether a run could train with these values: some fit one by one, and not together."""

MOST_POINTS = 100_000
MOST_DRAWS = 10_000
MOST_LISTED = 1_000  # points of a space, up to which they are written down
MOST_REPEATS = 200  # draws of points that were tried, before one of the others is taken


@dataclass(frozen=True)
class PastRun:
    """A run that a search may learn from."""

    values: Values
    score: float | None
    """Less is better; None while the run has none."""
    running: bool = False
    failed: bool = False
    """It diverged or broke: its score, if any, is not what such a run reaches."""


class LazyPastRuns(Sequence[PastRun]):
    """Runs that a search may learn from, with the keys of their values.

    What it may learn takes work for every run, and is worked out when it is looked at first.
    """

    def __init__(self, keys: Set[str], read: Callable[[], list[PastRun]]) -> None:
        self.keys, self.read = keys, read

    @cached_property
    def runs(self) -> list[PastRun]:
        """All of them."""
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
    """A way to choose values."""

    @property
    def size(self) -> int | None:
        """How many runs there can be; None if there is no end."""
        ...

    def suggest(self, k: int, past_runs: Sequence[PastRun]) -> Values | None:
        """The values of run `k`, given the runs before it; None if each point was tried.

        Raises:
            SweepError: No point is possible.
        """
        ...


class Grid:
    """Every point of a grid in W&B's order: the last parameter varies fastest, each point once."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.names = [parameter.name for parameter in parameters]
        self.axes: list[Sequence[Any]] = [p.distribution.grid() or () for p in parameters]

    @property
    def count(self) -> int:
        """How many there are; more than `len` could say, perhaps."""
        return prod(map(length_of, self.axes))

    def __iter__(self) -> Iterator[Values]:
        for index in range(self.count):
            point = [0] * len(self.axes)
            for place in reversed(range(len(self.axes))):
                index, point[place] = divmod(index, len(self.axes[place]))
            values = (axis[i] for axis, i in zip(self.axes, point, strict=True))
            yield dict(zip(self.names, values, strict=True))


class ListSearch:
    """These points, in this order: a grid that is written down."""

    def __init__(self, points: Sequence[Values]) -> None:
        self.points = points

    @property
    def size(self) -> int:
        """As many as there are points."""
        return len(self.points)

    def suggest(self, k: int, past_runs: Sequence[PastRun]) -> Values:
        """Point `k`."""
        return self.points[k]


def key_of(values: Values) -> str:
    """Text that two runs of the same values share."""
    return ",".join(f"{name}={same_key(values[name])}" for name in sorted(values))


def keys_of(past_runs: Sequence[PastRun]) -> Set[str]:
    """The keys of their values."""
    return (
        past_runs.keys
        if isinstance(past_runs, LazyPastRuns)
        else {key_of(run.values) for run in past_runs}
    )


def every_point(
    parameters: Sequence[Parameter], is_possible: IsPossible
) -> dict[str, Values] | None:
    """The possible points, by their keys, of a space that can be listed; None of any other."""
    supports = [parameter.distribution.support() for parameter in parameters]
    lists = [support for support in supports if support is not None]
    if len(lists) < len(supports) or prod(map(length_of, lists)) > MOST_LISTED:
        return None
    names = [parameter.name for parameter in parameters]
    points = (dict(zip(names, values, strict=True)) for values in product(*lists))
    return {key_of(point): point for point in points if is_possible(point)}


class RandomSearch:
    """Draws without repeats: run `k` is the first of draws by the seed and `k` that was not tried.

    So it is the same at any number of workers.
    """

    def __init__(
        self, parameters: Sequence[Parameter], *, seed: int, is_possible: IsPossible
    ) -> None:
        self.parameters, self.seed, self.is_possible = parameters, seed, is_possible

    @cached_property
    def points(self) -> dict[str, Values] | None:
        """Every possible point by its key, if there are few enough to list."""
        return every_point(self.parameters, self.is_possible)

    @property
    def size(self) -> int | None:
        """As many as there are points, where they can be listed."""
        return len(self.points) if self.points else None

    def left(self, past_runs: Sequence[PastRun]) -> list[Values] | None:
        """Possible points that were not tried, where they can be listed."""
        if not self.points:
            return None
        taken = keys_of(past_runs)
        return [point for key, point in self.points.items() if key not in taken]

    def suggest(self, k: int, past_runs: Sequence[PastRun]) -> Values | None:
        """Draw until the values are possible together, and no run has them.

        Raises:
            SweepError: They never are possible.
        """
        left = self.left(past_runs)
        if left == []:
            return None
        dice = random.Random(f"{self.seed}:{k}")
        taken, repeats = keys_of(past_runs), 0
        values: Values = {}
        for _ in range(MOST_DRAWS if left is None else MOST_REPEATS):
            values = {p.name: suggested(p.distribution, _inside(dice)) for p in self.parameters}
            if key_of(values) in taken:
                repeats += 1
            elif self.is_possible(values):
                return values
        if left:
            return dice.choice(left)
        if repeats:  # a long list, of which next to nothing is left
            return None
        raise SweepError(
            f"{MOST_DRAWS:,} draws gave no combination that is possible; e.g. {dict(values)}"
        )


def _inside(dice: random.Random) -> float:
    """A number between 0 and 1, both excluded: a normal distribution has no value at its ends."""
    return dice.random() or 2.0**-54


def length_of(axis: Sequence[Any]) -> int:
    """`len`, also where there are more than that can say."""
    try:
        return len(axis)
    except OverflowError:
        return sys.maxsize


def too_many_points(parameters: Sequence[Parameter]) -> str:
    """Why a grid of these is too long to be meant; nothing if it is not."""
    count = Grid(parameters).count
    if count <= MOST_POINTS:
        return ""
    return (
        f"the grid has {count:,} points, and {MOST_POINTS:,} are the most; "
        "take values away, or search at random"
    )


def grid_search(
    parameters: Sequence[Parameter], *, is_possible: IsPossible
) -> tuple[ListSearch, int]:
    """The points of a grid that are possible, and how many are not.

    Raises:
        SweepError: The grid is too long to be meant, or no point of it is possible.
    """
    points = Grid(parameters)
    if too_long := too_many_points(parameters):
        raise SweepError(too_long)
    possible = [point for point in points if is_possible(point)]
    if not possible:
        raise SweepError(f"no point of the grid is possible; e.g. {next(iter(points))}")
    return ListSearch(possible), points.count - len(possible)
