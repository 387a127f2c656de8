"""Distributions of W&B's sweep format, which draw as its `sweeps` package 0.3.0 does.

Each distribution has two functions. `quantile` maps u in [0, 1] to a value: a uniform u is a random
draw, and a search over u searches the distribution. `position` is its inverse, apart from rounding.
`grid` lists the values for a grid search.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import NormalDist
from typing import Any, Protocol

MOST_MULTIPLES = 100_000
"""Most multiples of q that are listed."""
DIGITS = 5
"""Digits of a suggested number: of the number itself on a log scale, else of its range."""


class Distribution(Protocol):
    """Values of a parameter and their probabilities."""

    @property
    def kind(self) -> str:
        """Return W&B's name."""
        ...

    def quantile(self, u: float) -> Any:
        """Return the value below which a share `u` of the draws lies."""
        ...

    def position(self, value: Any) -> float:
        """Return u with `quantile(u) == value`, or near it.

        Raises:
            ValueError: `value` is not of this distribution.
        """
        ...

    def grid(self) -> Sequence[Any] | None:
        """Return all values in W&B's order; None if W&B's grid search refuses the distribution."""
        ...

    def support(self) -> Sequence[Any] | None:
        """Return every value that may be drawn, once; None if they cannot be listed."""
        ...


@dataclass(frozen=True)
class Categorical:
    """One of `values`, equally likely or by `probabilities`; a constant is one value."""

    kind: str
    values: tuple[Any, ...]
    probabilities: tuple[float, ...] | None = None

    def quantile(self, u: float) -> Any:
        """Return the value whose share of [0, 1] holds `u`."""
        if self.probabilities is None:
            return self.values[min(int(u * len(self.values)), len(self.values) - 1)]
        ends = list(accumulate(self.probabilities))
        last = max(i for i, share in enumerate(self.probabilities) if share > 0)
        return self.values[min(bisect_right(ends, u), last)]

    def position(self, value: Any) -> float:
        """Return the middle of the value's share of [0, 1]."""
        index = [value_key(each) for each in self.values].index(value_key(value))
        if self.probabilities is None:
            return (index + 0.5) / len(self.values)
        return sum(self.probabilities[:index]) + self.probabilities[index] / 2

    @property
    def choices(self) -> tuple[Any, ...]:
        """Return each value that may be drawn, once: 1 equals 1.0, but not true."""
        shares = self.probabilities or [1.0] * len(self.values)
        drawn = [value for value, share in zip(self.values, shares, strict=True) if share > 0]
        return tuple(dict(zip(map(value_key, drawn), drawn, strict=True)).values())

    def grid(self) -> Sequence[Any] | None:
        """Return the choices, if they are equally likely."""
        return self.choices if self.probabilities is None else None

    def support(self) -> Sequence[Any]:
        """Return the choices."""
        return self.choices


@dataclass(frozen=True)
class IntUniform:
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int
    kind: str = "int_uniform"

    def quantile(self, u: float) -> int:
        """Return the number whose share of [0, 1] holds `u`."""
        return min(self.low + int(u * (self.high - self.low + 1)), self.high)

    def position(self, value: Any) -> float:
        """Return the middle of the number's share; outside, that of the nearest end."""
        number = min(max(float(value), self.low), self.high)
        return (number - self.low + 0.5) / (self.high - self.low + 1)

    def grid(self) -> Sequence[int]:
        """Return all numbers."""
        return range(self.low, self.high + 1)

    def support(self) -> Sequence[int]:
        """Return all numbers."""
        return self.grid()


@dataclass(frozen=True)
class Continuous:
    """A real number; with `q`, its nearest multiple, which may lie outside the ends.

    `first` and `second` are the ends of a uniform family (their logarithms for a `log` family), mu
    and sigma of a normal one, or a and b of beta.
    """

    kind: str
    family: str
    """`uniform`, `log_uniform`, `inv_log_uniform`, `normal`, `log_normal` or `beta`."""
    first: float
    second: float
    q: float | None = None
    given_bounds: tuple[float, float] | None = None
    """Both ends as the file gives them, where `first` and `second` are their logarithms."""

    def quantile(self, u: float) -> float:
        """Return the value at `u`; infinite at 0 or 1 where the distribution has no end."""
        value = self._unrounded(u)
        if self.q is None or not math.isfinite(value / self.q):
            return value
        return self._multiple(round(value / self.q))  # halves go to the even multiple, as in numpy

    def position(self, value: Any) -> float:
        """Return the share below `value`; 0 or 1 outside the ends."""
        number = float(value)
        match self.family:
            case "uniform":
                share = (number - self.first) / (self.second - self.first)
            case "log_uniform":
                share = (_log(number) - self.first) / (self.second - self.first)
            case "inv_log_uniform":
                share = 1 - (-_log(number) - self.first) / (self.second - self.first)
            case "normal":
                share = self._normal_position(number)
            case "log_normal":
                share = self._normal_position(_log(number))
            case _:
                from scipy.stats import beta

                share = float(beta.cdf(number, self.first, self.second))
        return min(max(share, 0.0), 1.0)

    def grid(self) -> Sequence[float] | None:
        """Return the steps of a `q_uniform` from its low end, without its high end, as in numpy."""
        if self.kind != "q_uniform" or self.q is None:
            return None
        return _Steps(self.first, self.second, self.q)

    def support(self) -> Sequence[float] | None:
        """Return the multiples of `q` between both ends, if there is a `q`."""
        if self.q is None or "normal" in self.family:
            return None
        low, high = (self.quantile(end) / self.q for end in (0.0, 1.0))
        if not high - low <= MOST_MULTIPLES:
            return None
        return [self._multiple(k) for k in range(round(low), round(high) + 1)]

    @property
    def draws_whole_numbers(self) -> bool:
        """Return whether every value is a multiple of a whole `q`."""
        return self.q is not None and float(self.q).is_integer()

    @property
    def is_unbounded(self) -> bool:
        """Return whether there is no least or greatest value."""
        return "normal" in self.family

    @property
    def bounds(self) -> tuple[float, float]:
        """Return both ends as in the file; rounding to `q` may leave them."""
        margin = (self.q or 0) / 2
        low, high = self.ends
        uniform = (self.first, self.second) if self.family == "uniform" else None
        return self.given_bounds or uniform or (low + margin, high - margin)

    def rounded(self, value: float) -> float:
        """Return `value` with the digits that matter; near an end, the end itself.

        Multiples of `q` stay as they are.
        """
        low, high = self.bounds
        size = min(abs(value), high - low) if self.in_logs else high - low
        if self.q is not None or not math.isfinite(value) or not 0 < size < math.inf:
            return value
        places = DIGITS - 1 - math.floor(math.log10(size))
        for end in (low, high):
            if abs(value - end) <= 0.5 * 10.0**-places:
                return float(end)
        return float(min(max(round(value, places), low), high))

    @property
    def ends(self) -> tuple[float, float]:
        """Return the least and greatest value; nine sigma from the mean without an end."""
        reach = (self.first - 9 * self.second, self.first + 9 * self.second)
        low, high = {
            "uniform": lambda: (self.first, self.second),
            "log_uniform": lambda: (exp(self.first), exp(self.second)),
            "inv_log_uniform": lambda: (exp(-self.second), exp(-self.first)),
            "normal": lambda: reach,
            "log_normal": lambda: (exp(reach[0]), exp(reach[1])),
            "beta": lambda: (0.0, 1.0),
        }[self.family]()
        margin = (self.q or 0) / 2  # rounding may leave the ends
        return low - margin, high + margin

    @property
    def in_logs(self) -> bool:
        """Return whether the scale is logarithmic: equal factors are equally likely."""
        return "log" in self.family

    def _multiple(self, k: int) -> float:
        assert self.q is not None
        return k * self.q if isinstance(self.q, int) else float(k * self.q)

    def _unrounded(self, u: float) -> float:
        match self.family:
            case "uniform":
                return self.first + u * (self.second - self.first)
            case "log_uniform":
                return exp(self.first + u * (self.second - self.first))
            case "inv_log_uniform":
                return exp(-(self.first + (1 - u) * (self.second - self.first)))
            case "normal":
                return self._normal_quantile(u)
            case "log_normal":
                return exp(self._normal_quantile(u))
            case _:
                from scipy.stats import beta

                return float(beta.ppf(u, self.first, self.second))

    def _normal_quantile(self, u: float) -> float:
        if self.second == 0:
            return self.first
        if not 0 < u < 1:
            return math.copysign(math.inf, u - 0.5)
        return NormalDist(self.first, self.second).inv_cdf(u)

    def _normal_position(self, value: float) -> float:
        if self.second == 0:
            return 0.5
        return NormalDist(self.first, self.second).cdf(value)


class _Steps(Sequence[float]):
    """numpy's `arange`, computed on demand: a grid may be too long to list."""

    def __init__(self, start: float, end: float, step: float) -> None:
        self.start, self.step = start, (start + step) - start  # rounded as numpy does
        self.length = math.ceil((end - start) / step)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.length))]
        if not 0 <= index < self.length:
            raise IndexError(index)
        return self.start + index * self.step


def rounded_quantile(distribution: Distribution, u: float) -> Any:
    """Return the quantile with the digits that matter, as a run gets it."""
    value = distribution.quantile(u)
    return distribution.rounded(value) if isinstance(distribution, Continuous) else value


def value_key(value: Any) -> str:
    """Return a text that is equal for values that W&B's grid treats as equal: 1 and 1.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def exp(exponent: float) -> float:
    """Return e to this power; infinite if it is too large."""
    try:
        return math.exp(exponent)
    except OverflowError:
        return math.inf


def _log(number: float) -> float:
    return math.log(number) if number > 0 else -math.inf
