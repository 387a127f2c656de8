"""Checks of stored values: a storage from another person may hold anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fundamentallm.metrics import finite
from fundamentallm.sweep.file.distributions import Categorical, Distribution, IntUniform, value_key
from fundamentallm.sweep.file.parameters import Parameter


class StoredError(Exception):
    """The storage has content that no sweep has written."""


def is_text(value: object) -> bool:
    """Return whether it is text that a file name or a message can hold."""
    return isinstance(value, str) and "\0" not in value


def is_number(value: object) -> bool:
    """Return whether it is a finite number."""
    return finite(value) is not None


class ValueCheck:
    """Check that values belong to a sweep's parameters."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        """Build the check for these parameters."""
        self.fits = {each.name: _test_of(each.distribution) for each in parameters}

    def __call__(self, values: object) -> None:
        """Check that every parameter, and nothing else, has a possible value.

        Raises:
            StoredError: A value is missing, impossible or left over.
        """
        if not isinstance(values, dict) or values.keys() != self.fits.keys():
            raise StoredError("its values do not match the sweep's parameters")
        for name, fits in self.fits.items():
            if not fits(values[name]):
                raise StoredError(f"its {name} is not a value of the sweep")


def _test_of(distribution: Distribution) -> Callable[[Any], bool]:
    """Return the test for values of a distribution."""
    if isinstance(distribution, Categorical):
        keys = set(map(value_key, distribution.values))
        return lambda value: value_key(value) in keys
    if isinstance(distribution, IntUniform):
        low, high = distribution.low, distribution.high
        return lambda value: type(value) is int and low <= value <= high
    return is_number
