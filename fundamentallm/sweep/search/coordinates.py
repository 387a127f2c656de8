"""Coordinates of configurations: rows of numbers in which a Gaussian process measures distances.

Every searched parameter is one coordinate. Numbers in `values` become their rank, for their order
is known. A distribution becomes the share of it below a value, so that a rate is searched on a log
scale where the file says so. Texts are categories. Parameters that exclude each other keep their
own coordinates, but
are drawn together, from their possible combinations. A seed is no coordinate, so repeats show the
noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundamentallm.sweep.file.distributions import (
    Categorical,
    Continuous,
    IntUniform,
    rounded_quantile,
    value_key,
)
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.search.base import OFF, Groups, Values

Points = NDArray[np.float64]
"""Coordinates; the last axis is over the searched parameters."""
MOST_RANKS = 10_000
"""Most whole numbers that become ranks."""
CHANGES = 1.5
"""Parameters that differ between a point and a neighbor of it, on average."""
NEAR = 0.15
"""Least distance, as a share of the range, at which a combination counts as near another."""


@dataclass(frozen=True)
class Coordinate:
    """Coordinate of one parameter: from 0 to 1, or the index of a category."""

    parameter: Parameter

    @cached_property
    def is_category(self) -> bool:
        """Return whether the values have no order."""
        distribution = self.parameter.distribution
        return isinstance(distribution, Categorical) and any(
            type(value) not in (int, float) for value in distribution.choices
        )

    @cached_property
    def options(self) -> Sequence[Any] | None:
        """Return the values by index; None if every number of a range is possible."""
        distribution = self.parameter.distribution
        if isinstance(distribution, IntUniform):
            is_short = distribution.high - distribution.low < MOST_RANKS
            return range(distribution.low, distribution.high + 1) if is_short else None
        if isinstance(distribution, Categorical):
            choices = distribution.choices
            return choices if self.is_category else sorted(set(choices))
        return None

    @cached_property
    def scale(self) -> int:
        """Return the number of steps from 0 to 1, or 1 for a category and a range."""
        return max(len(self.options) - 1, 1) if self.options and not self.is_category else 1

    @cached_property
    def indices(self) -> dict[str, int]:
        """Return the indices of listed values by their keys."""
        return {value_key(value): index for index, value in enumerate(self.options or ())}

    def of(self, value: Any) -> float:
        """Return the coordinate of a value.

        Raises:
            ValueError: The parameter does not have this value.
        """
        distribution = self.parameter.distribution
        if self.options is None:
            return distribution.position(value)
        try:
            return self.indices[value_key(value)] / self.scale
        except KeyError:
            raise ValueError(f"{value!r} is none of the values") from None

    def value(self, coordinate: float) -> Any:
        """Return the value at a coordinate, as a run gets it."""
        if self.options is None:
            distribution = self.parameter.distribution
            if isinstance(distribution, Continuous) and distribution.is_unbounded:
                coordinate = min(max(coordinate, OFF), 1 - OFF)
            return rounded_quantile(distribution, coordinate)
        return self.options[round(coordinate * self.scale)]

    def draw(self, rng: np.random.Generator, count: int) -> Points:
        """Return coordinates at random."""
        if self.options is None:
            return rng.random(count)
        return rng.integers(len(self.options), size=count) / self.scale

    def move(self, points: Points, step: float, rng: np.random.Generator) -> Points:
        """Return each coordinate moved by about `step`, or to any category."""
        if self.is_category:
            return self.draw(rng, len(points))
        moves = rng.normal(0, step, len(points))
        if self.options is not None:
            moves = np.sign(moves) * np.maximum(1, np.rint(abs(moves) * self.scale)) / self.scale
        return np.clip(points + moves, 0, 1)


class Coordinates:
    """The searched parameters' coordinates, and points drawn from them."""

    def __init__(self, parameters: Sequence[Parameter], groups: Groups = ()) -> None:
        """Set up the coordinates.

        Args:
            parameters: All parameters of the sweep, with constants.
            groups: Result of `SearchSpace.together`.
        """
        self.parameters = parameters
        searched = [p for p in parameters if not p.is_constant]
        self.each = [Coordinate(p) for p in searched if p.path[-1] != "seed"]
        self.seeds = [p for p in searched if p.path[-1] == "seed"]
        self.constants = {p.name: p.distribution.quantile(0.5) for p in parameters if p.is_constant}
        self.is_category = np.array([each.is_category for each in self.each], dtype=bool)
        columns = {each.parameter.name: column for column, each in enumerate(self.each)}
        self.groups: list[tuple[list[int], Points]] = []
        """Columns that are drawn together, with the rows of their possible combinations."""
        for names, combinations in groups:
            found = [(columns[name], i) for i, name in enumerate(names) if name in columns]
            if combinations is not None:
                rows = [[self.each[c].of(values[i]) for c, i in found] for values in combinations]
                self.groups.append(([column for column, _ in found], np.array(rows)))
        grouped = {column for group, _ in self.groups for column in group}
        self.free = [column for column in columns.values() if column not in grouped]

    def of(self, values: Values) -> Points:
        """Return the point of a configuration.

        Raises:
            ValueError: A parameter does not have its value.
        """
        return np.array([each.of(values[each.parameter.name]) for each in self.each])

    def values(self, point: Points, rng: np.random.Generator) -> Values:
        """Return the configuration at a point, with any seed."""
        pairs = zip(self.each, point, strict=True)
        found = {each.parameter.name: each.value(float(share)) for each, share in pairs}
        seeds = {p.name: rounded_quantile(p.distribution, rng.random()) for p in self.seeds}
        found |= self.constants | seeds
        return {p.name: found[p.name] for p in self.parameters}

    def draw(self, count: int, rng: np.random.Generator) -> Points:
        """Return points at random."""
        points = np.empty((count, len(self.each)))
        for column in self.free:
            points[:, column] = self.each[column].draw(rng, count)
        for columns, rows in self.groups:
            points[:, columns] = rows[rng.integers(len(rows), size=count)]
        return points

    def neighbors(
        self, points: Points, count: int, step: float, rng: np.random.Generator
    ) -> Points:
        """Return `count` neighbors of each point, which differ in at least one parameter.

        A number moves by about `step` of its range, a category to any other.
        """
        moved = np.repeat(points, count, axis=0)
        units = len(self.free) + len(self.groups)
        changes = rng.random((len(moved), units)) < CHANGES / units
        changes[np.arange(len(moved)), rng.integers(units, size=len(moved))] = True
        for column, changed in zip(self.free, changes.T, strict=False):
            moved[changed, column] = self.each[column].move(moved[changed, column], step, rng)
        for (columns, rows), changed in zip(self.groups, changes.T[len(self.free) :], strict=True):
            here = np.ix_(changed, columns)
            distances = squared_distances(moved[here], rows, self.is_category[columns]).sum(0)
            log_weights = np.where(distances > 0, -distances / (2 * max(step, NEAR) ** 2), -np.inf)
            drawn = np.argmax(log_weights + rng.gumbel(size=distances.shape), axis=1)
            moved[here] = rows[drawn]
        return moved


def squared_distances(a: Points, b: Points, is_category: NDArray[np.bool_]) -> Points:
    """Return the squared distances by coordinate, `(columns, len(a), len(b))`.

    Two categories have the distance 1.
    """
    differences = a.T[:, :, None] - b.T[:, None, :]
    differences[is_category] = differences[is_category] != 0
    return differences**2
