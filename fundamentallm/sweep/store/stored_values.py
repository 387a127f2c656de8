"""Checks of single values that a storage holds: one in a folder from others may say anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fundamentallm.metrics import finite
from fundamentallm.sweep.file.distributions import Categorical, Distribution, IntUniform, same_key
from fundamentallm.sweep.file.parameters import Parameter


class StoredError(Exception):
    """The storage holds what no sweep has written there."""


def is_text(value: object) -> bool:
    """True for text that a file name or a message can hold."""
    return isinstance(value, str) and "\0" not in value


def is_number(value: object) -> bool:
    """True for a finite number."""
    return finite(value) is not None


class ValueCheck:
    """Sees that values are those of a run of a sweep."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        """`parameters`: the sweep's."""
        self.fits = {each.name: _fitting(each.distribution) for each in parameters}

    def __call__(self, values: object) -> None:
        """See that there is a value of its kind for every parameter, and for nothing else.

        Raises:
            StoredError: There is not.
        """
        if not isinstance(values, dict) or values.keys() != self.fits.keys():
            raise StoredError("its values are not for the sweep's parameters")
        for name, fits in self.fits.items():
            if not fits(values[name]):
                raise StoredError(f"its {name} is none that the sweep has")


def _fitting(distribution: Distribution) -> Callable[[Any], bool]:
    """What tells whether a value may be of a distribution."""
    if isinstance(distribution, Categorical):
        keys = set(map(same_key, distribution.values))
        return lambda value: same_key(value) in keys
    if isinstance(distribution, IntUniform):
        low, high = distribution.low, distribution.high
        return lambda value: type(value) is int and low <= value <= high
    return is_number
