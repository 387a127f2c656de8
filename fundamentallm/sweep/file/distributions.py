"""The distributions of W&B's sweep format: what each draws, as its `sweeps` package 0.3.0 does.

A distribution is seen through two functions. `quantile` takes a number u in [0, 1] to a value:
a uniform u gives a random draw, and a search over u searches the distribution. `position` goes
back, as far as rounding lets it. `grid` lists the values where a grid search may use them.
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

MOST_MULTIPLES = 100_000  # of q, that are written down


DIGITS = 5
"""Of a number that a search suggests: of the number itself in logarithms, else of its range."""


class Distribution(Protocol):
    """One parameter's values and how likely each is."""

    @property
    def kind(self) -> str:
        """W&B's name for it."""
        ...

    def quantile(self, u: float) -> Any:
        """The value below which a share `u` of the draws lies."""
        ...

    def position(self, value: Any) -> float:
        """A u with `quantile(u) == value`; for a value between two that are drawn, near it.

        Raises:
            ValueError: `value` is none that this distribution knows.
        """
        ...

    def grid(self) -> Sequence[Any] | None:
        """Every value in W&B's order; None where W&B's grid search refuses the distribution."""
        ...

    def support(self) -> Sequence[Any] | None:
        """Every value that may be drawn, once; None where they are no list, or a very long one."""
        ...


@dataclass(frozen=True)
class Categorical:
    """One of `values`, all as likely, or each with its probability; a constant is one value."""

    kind: str
    values: tuple[Any, ...]
    probabilities: tuple[float, ...] | None = None

    def quantile(self, u: float) -> Any:
        """The value whose share of [0, 1] holds `u`."""
        if self.probabilities is None:
            return self.values[min(int(u * len(self.values)), len(self.values) - 1)]
        ends = list(accumulate(self.probabilities))
        last = max(i for i, share in enumerate(self.probabilities) if share > 0)
        return self.values[min(bisect_right(ends, u), last)]

    def position(self, value: Any) -> float:
        """The middle of the value's share."""
        index = [same_key(each) for each in self.values].index(same_key(value))
        if self.probabilities is None:
            return (index + 0.5) / len(self.values)
        return sum(self.probabilities[:index]) + self.probabilities[index] / 2

    @property
    def choices(self) -> tuple[Any, ...]:
        """Each value that may be drawn, once: 1 and 1.0 are the same, 1 and true are not."""
        shares = self.probabilities or [1.0] * len(self.values)
        drawn = [value for value, share in zip(self.values, shares, strict=True) if share > 0]
        return tuple(dict(zip(map(same_key, drawn), drawn, strict=True)).values())

    def grid(self) -> Sequence[Any] | None:
        """Its choices, if they are all as likely."""
        return self.choices if self.probabilities is None else None

    def support(self) -> Sequence[Any]:
        """Its choices."""
        return self.choices


@dataclass(frozen=True)
class IntUniform:
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int
    kind: str = "int_uniform"

    def quantile(self, u: float) -> int:
        """The number whose share of [0, 1] holds `u`."""
        return min(self.low + int(u * (self.high - self.low + 1)), self.high)

    def position(self, value: Any) -> float:
        """The middle of the number's share; that of the nearest end for one outside."""
        number = min(max(float(value), self.low), self.high)
        return (number - self.low + 0.5) / (self.high - self.low + 1)

    def grid(self) -> Sequence[int]:
        """All of them."""
        return range(self.low, self.high + 1)

    def support(self) -> Sequence[int]:
        """All of them."""
        return self.grid()


@dataclass(frozen=True)
class Continuous:
    """A real number; with `q`, the nearest multiple of it, which may lie outside the ends.

    `first` and `second` are the ends for the uniform families (logarithms of them for the `log`
    ones), mu and sigma for the normal, a and b for beta.
    """

    kind: str
    family: str
    """`uniform`, `log_uniform`, `inv_log_uniform`, `normal`, `log_normal` or `beta`."""
    first: float
    second: float
    q: float | None = None
    stated: tuple[float, float] | None = None
    """Both ends as the file gives them, where `first` and `second` are their logarithms."""

    def quantile(self, u: float) -> float:
        """Infinite at 0 or 1 where the distribution has no end there."""
        value = self._unrounded(u)
        if self.q is None or not math.isfinite(value / self.q):
            return value
        return self._multiple(round(value / self.q))  # halves to the even multiple, as numpy's do

    def position(self, value: Any) -> float:
        """0 or 1 for a value outside the ends."""
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
        """Only of `q_uniform`: steps of `q` from the low end, the high end left out, as numpy's."""
        if self.kind != "q_uniform" or self.q is None:
            return None
        return _Steps(self.first, self.second, self.q)

    def support(self) -> Sequence[float] | None:
        """The multiples of `q`, where there is one, between both ends."""
        if self.q is None or "normal" in self.family:
            return None
        low, high = (self.quantile(end) / self.q for end in (0.0, 1.0))
        if not high - low <= MOST_MULTIPLES:
            return None
        return [self._multiple(k) for k in range(round(low), round(high) + 1)]

    @property
    def is_endless(self) -> bool:
        """Whether there is no least and no greatest value."""
        return "normal" in self.family

    @property
    def bounds(self) -> tuple[float, float]:
        """The ends exactly as the file gives them; rounding to `q` may leave them."""
        margin = (self.q or 0) / 2
        low, high = self.ends
        uniform = (self.first, self.second) if self.family == "uniform" else None
        return self.stated or uniform or (low + margin, high - margin)

    def shortened(self, value: float) -> float:
        """`value` in the digits that matter, for a run; what is nearly an end is the end.

        Multiples of `q` are as they are.
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
        """The least and the greatest value; nine sigma away where a distribution has no end."""
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
        """Whether equal factors, not equal steps, are as likely."""
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
    """numpy's `arange`, computed when asked for: a grid may be too long to write down."""

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


def suggested(distribution: Distribution, u: float) -> Any:
    """The quantile as a run gets it: without digits that make no difference."""
    value = distribution.quantile(u)
    return distribution.shortened(value) if isinstance(distribution, Continuous) else value


def same_key(value: Any) -> str:
    """Text that two values share if W&B's grid takes them for the same: 1 and 1.0, not true."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def exp(exponent: float) -> float:
    """E to that power; infinite where it is too large for a number."""
    try:
        return math.exp(exponent)
    except OverflowError:
        return math.inf


def _log(number: float) -> float:
    return math.log(number) if number > 0 else -math.inf
