"""Configuration that a person picks: texts and YAML values as values of a sweep's parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

from fundamentallm.config.fields import shown
from fundamentallm.files import bounded_yaml
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.distributions import Categorical, Continuous, IntUniform, value_key
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.search.base import Values
from fundamentallm.sweep.search.seeds import SeededSpace
from fundamentallm.sweep.search.space import SearchSpace

MOST_SHOWN = 8
"""Most values of a parameter in a message."""


def read_configuration(space: SearchSpace, given: Mapping[str, Any]) -> Values:
    """Return a configuration of the sweep; constants and a repeated seed need not be given.

    Args:
        space: The sweep's search space.
        given: Values by name, as text or as YAML reads them. `batch-size` means `batch_size`, and
            the last word of a nested name is enough if no other parameter ends with it.

    Raises:
        SweepError: A name is unknown, a value is missing or not one of the sweep, or the values
            are impossible together; the message has every reason.
    """
    in_grid = space.sweep.method == "grid"
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in given.items():
        parameter = _parameter(space.sweep.parameters, name)
        if parameter is None:
            problems.append(_unknown(space.sweep.parameters, name))
        elif parameter.name in values:
            problems.append(f"{parameter.name} is given twice; keep one")
        else:
            try:
                values[parameter.name] = _value(parameter, value, in_grid=in_grid)
            except ValueError:
                problems.append(f"{parameter.name}: got {value}; give {possible_text(parameter)}")
                values[parameter.name] = None
    if isinstance(space, SeededSpace):
        values.setdefault(space.repeats_by, space.each_seed[0])
    missing = [
        f"{each.name} ({possible_text(each)})" for each in space.searched if each.name not in values
    ]
    if missing:
        problems.append(f"give a value also for {', '.join(missing)}")
    if problems:
        raise SweepError("; ".join(problems))
    constants = {p.name: p.distribution.quantile(0.5) for p in space.sweep.parameters}
    configuration = {p.name: values.get(p.name, constants[p.name]) for p in space.sweep.parameters}
    if why := space.why_impossible(configuration):
        raise SweepError(f"these values are impossible together: {why}")
    return configuration


def possible_text(parameter: Parameter) -> str:
    """Return what a person may give for a parameter: `0.001 to 0.1`, or `16, 32 or 64`."""
    distribution = parameter.distribution
    if isinstance(distribution, IntUniform):
        return f"a whole number from {distribution.low} to {distribution.high}"
    if isinstance(distribution, Continuous):
        what = "a number" if distribution.q is None else f"a multiple of {distribution.q:g}"
        if distribution.is_unbounded:
            return f"{what}, 0 or more" if distribution.in_logs else what
        low, high = distribution.bounds
        return f"{what} from {low:g} to {high:g}"
    assert isinstance(distribution, Categorical)
    *others, last = map(_choice_text, distribution.choices)
    if len(others) >= MOST_SHOWN:
        others, last = others[: MOST_SHOWN - 1], f"one of {len(others) - MOST_SHOWN + 2} others"
    return f"{', '.join(others)} or {last}" if others else last


def _choice_text(value: Any) -> str:
    return shown(value) if isinstance(value, Mapping) else str(value)


def _parameter(parameters: Sequence[Parameter], name: str) -> Parameter | None:
    """Return the parameter that a name means; None if it means none, or several."""
    plain = _plain(name)
    whole = [each for each in parameters if _plain(each.name) == plain]
    found = whole or [each for each in parameters if _plain(each.path[-1]) == plain]
    return found[0] if len(found) == 1 else None


def _plain(name: str) -> str:
    return str(name).replace("-", "_")


def _unknown(parameters: Sequence[Parameter], name: str) -> str:
    names = [each.name for each in parameters]
    near = get_close_matches(_plain(name), names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}"
    return f"the sweep has no parameter {name}; {hint}"


def _value(parameter: Parameter, given: Any, *, in_grid: bool) -> Any:
    """Return the value of a parameter that a text or a YAML value means.

    Raises:
        ValueError: It is not a value of the sweep.
    """
    distribution = parameter.distribution
    if isinstance(distribution, Categorical):
        choices = {value_key(choice): choice for choice in distribution.choices}
        for key in _keys(given):
            if key in choices:
                return choices[key]
        raise ValueError
    number = _number(given)
    listed = distribution.grid() if in_grid else distribution.support()
    if isinstance(distribution, IntUniform):
        if not (number.is_integer() and distribution.low <= number <= distribution.high):
            raise ValueError
        return int(number)
    if listed is not None:  # multiples of `q`
        nearest = min(listed, key=lambda each: abs(each - number))
        if not math.isclose(nearest, number, rel_tol=1e-9, abs_tol=1e-12):
            raise ValueError
        return nearest
    assert isinstance(distribution, Continuous)
    low, high = (0.0, math.inf) if distribution.in_logs else (-math.inf, math.inf)
    if not distribution.is_unbounded:
        low, high = distribution.bounds
    if not low <= number <= high:
        raise ValueError
    return number


def _number(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise ValueError
    number = float(given)
    if not math.isfinite(number):
        raise ValueError
    return number


def _keys(given: Any) -> Iterator[str]:
    """Yield the key of a value; for a text, also those of what it means in YAML and as a number."""
    meant = [given]
    if isinstance(given, str):
        for read in (bounded_yaml.load, float):
            with suppress(ValueError):  # `YamlError` is one
                meant.append(read(given))
    for value in meant:
        with suppress(TypeError):  # a date in YAML
            yield value_key(value)
