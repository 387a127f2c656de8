"""Which values a run tries: `Search`, with grid and random search; bayes is in bayes.py.

A search answers for run `k` of a sweep, counted from 0, and is asked in that order. It holds no
state of its own: what it says depends on the sweep, its seed, `k` and what other runs found.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

from fundamentallm.sweep.findings import SweepError
from fundamentallm.sweep.parameters import Parameter

Values = Mapping[str, Any]
"""What a run tries, by `Parameter.name`."""
IsPossible = Callable[[Values], bool]
"""Whether a run could train with these values: some fit one by one, and not together."""

MOST_POINTS = 100_000
MOST_DRAWS = 10_000


@dataclass(frozen=True)
class Tried:
    """A run that a search may learn from."""

    values: Values
    score: float | None
    """Less is better; None while the run has none."""
    running: bool = False
    failed: bool = False
    """It diverged or broke: its score, if any, is not what such a run reaches."""


class Search(Protocol):
    """A way to choose values."""

    @property
    def size(self) -> int | None:
        """How many runs there can be; None if there is no end."""
        ...

    def suggest(self, k: int, tried: Sequence[Tried]) -> Values:
        """The values of run `k`, given the runs before it.

        Raises:
            SweepError: There are none.
        """
        ...


class GridPoints:
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

    def suggest(self, k: int, tried: Sequence[Tried]) -> Values:
        """Point `k`."""
        return self.points[k]


class RandomSearch:
    """Independent draws: run `k` depends on the seed and `k` alone, at any number of workers."""

    def __init__(
        self, parameters: Sequence[Parameter], *, seed: int, is_possible: IsPossible
    ) -> None:
        self.parameters, self.seed, self.is_possible = parameters, seed, is_possible

    @property
    def size(self) -> None:
        """No end."""
        return None

    def suggest(self, k: int, tried: Sequence[Tried]) -> Values:
        """Draw until the values are possible together.

        Raises:
            SweepError: They never are.
        """
        dice = random.Random(f"{self.seed}:{k}")
        values: Values = {}
        for _ in range(MOST_DRAWS):
            values = {p.name: p.distribution.quantile(_inside(dice)) for p in self.parameters}
            if self.is_possible(values):
                return values
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
    count = GridPoints(parameters).count
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
    points = GridPoints(parameters)
    if too_long := too_many_points(parameters):
        raise SweepError(too_long)
    possible = [point for point in points if is_possible(point)]
    if not possible:
        raise SweepError(f"no point of the grid is possible; e.g. {next(iter(points))}")
    return ListSearch(possible), points.count - len(possible)
