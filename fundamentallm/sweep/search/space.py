"""Search space of a sweep: settings of a run from its values, and checks of both."""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

from fundamentallm.config.fields import ConfigError, Hyperparameter
from fundamentallm.config.hyperparameters import CONSTRAINED, HYPERPARAMETERS, Config
from fundamentallm.config.parsing import DATA, nearest_name
from fundamentallm.metrics import METRICS
from fundamentallm.sweep.file.diagnostics import Diagnostics, Key
from fundamentallm.sweep.file.distributions import (
    Categorical,
    Continuous,
    IntUniform,
    rounded_quantile,
)
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.search.base import Values, too_many_configurations

MOST_TOGETHER = 64
"""Most combinations of values that are searched as one choice."""


class SearchSpace:
    """Configurations that a sweep may try, with the `fixed` settings of all runs."""

    repeats_by = ""
    """Name of the parameter that only repeats a configuration; empty unless in a `SeededSpace`."""
    seeds = 1
    """Most runs of a configuration."""

    def __init__(self, sweep: SweepFile, fixed: Mapping[str, Any], *, is_ours: bool = True) -> None:
        """Set up the space.

        Args:
            sweep: Parsed sweep file.
            fixed: Settings that all runs share.
            is_ours: Whether our trainer runs it; the values of another program are not judged.
        """
        self.sweep, self.fixed, self.is_ours = sweep, fixed, is_ours
        self.searched = [p for p in sweep.parameters if not p.is_constant]
        names = {name for each in sweep.parameters for name in hyperparameter_names(each)}
        self.are_known = is_ours and names <= {*HYPERPARAMETERS, DATA}
        """True if each parameter is one of our trainer's."""

    def settings(self, values: Values) -> dict[str, Any]:
        """Return parsed hyperparameters by name, and `data` if the sweep gives it.

        A mapping sets its members. For another program, return the values by the full names of
        their parameters.

        Raises:
            ConfigError: A value is not possible for its hyperparameter.
        """
        if not self.is_ours:
            return {parameter.name: values[parameter.name] for parameter in self.sweep.parameters}
        settings = dict(self.fixed)
        for parameter in self.sweep.parameters:
            for name, value in spread(parameter, values[parameter.name]).items():
                settings[name] = str(value) if name == DATA else HYPERPARAMETERS[name].parse(value)
        return settings

    def is_possible(self, values: Values) -> bool:
        """Return whether our trainer accepts these values; other programs accept any."""
        return not self.why_impossible(values)

    def why_impossible(self, values: Values) -> str:
        """Return why our trainer refuses these values; "" if it accepts them."""
        if not self.are_known:
            return ""
        try:
            settings = self.settings(values)
            settings.pop(DATA, None)
            Config(**settings)
        except ConfigError as error:
            return str(error)
        return ""

    def defaults(self) -> Values:
        """Return the values nearest to the documented defaults, or medians for another program."""
        values: dict[str, Any] = {}
        for parameter in self.sweep.parameters:
            known = HYPERPARAMETERS.get(hyperparameter_name(parameter)) if self.is_ours else None
            default = self.fixed.get(known.name, known.default) if known else None
            values[parameter.name] = _nearest(parameter, default)
        return values

    def together(self) -> list[tuple[tuple[str, ...], list[tuple[Any, ...]] | None]]:
        """Return groups of searched parameters of which some combinations are impossible.

        Each comes with its possible combinations; None if there are too many to list.
        """
        if not self.is_ours:
            return []
        groups: list[tuple[tuple[str, ...], list[tuple[Any, ...]] | None]] = []
        for names, swept in self.constrained():
            if not any(p in self.searched for p in swept):
                continue
            grids = [p.distribution.grid() for p in swept]
            members = tuple(p.name for p in swept)
            lengths = [0 if grid is None else len(grid) for grid in grids]
            if not 0 < prod(lengths) <= MOST_TOGETHER:
                groups.append((members, None))
                continue
            fixed = {name: self.fixed[name] for name in names if name in self.fixed}
            possible = [
                combination
                for combination in product(*(grid or () for grid in grids))
                if fits(fixed | _only(names, swept, combination))
            ]
            if len(possible) < prod(lengths):
                groups.append((members, possible))
        return groups

    def constrained(self) -> list[tuple[tuple[str, ...], list[Parameter]]]:
        """Return hyperparameters that may exclude each other, with the parameters that set them.

        A parameter is in one group only, also if its mappings set hyperparameters of several.
        """
        groups: list[tuple[tuple[str, ...], dict[str, Parameter]]] = []
        for names in CONSTRAINED:
            swept = {
                parameter.name: parameter
                for name in names
                for parameter in self.sweep.parameters
                if name in hyperparameter_names(parameter)
            }
            for group in [each for each in groups if each[1].keys() & swept.keys()]:
                groups.remove(group)
                names, swept = (*group[0], *names), group[1] | swept
            groups.append((names, swept))
        return [(names, list(swept.values())) for names, swept in groups]


def hyperparameter_name(parameter: Parameter) -> str:
    """Return the innermost name with underscores, as our trainer has it."""
    return parameter.path[-1].replace("-", "_")


def spread(parameter: Parameter, value: Any) -> dict[str, Any]:
    """Return the hyperparameters that a value sets: its own, or the members of a mapping."""
    if not isinstance(value, Mapping):
        return {hyperparameter_name(parameter): value}
    return {_member_name(path): each for path, each in innermost_members(value)}


def hyperparameter_names(parameter: Parameter) -> list[str]:
    """Return the hyperparameters that a parameter sets, with any of its values."""
    distribution = parameter.distribution
    values = distribution.values if isinstance(distribution, Categorical) else (None,)
    return list(dict.fromkeys(name for value in values for name in spread(parameter, value)))


def innermost_members(mapping: Mapping[str, Any], path: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield the innermost values of a mapping, each with its path in it."""
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            yield from innermost_members(value, (*path, name))
        else:
            yield (*path, name), value


def _member_name(path: Key) -> str:
    return str(path[-1]).replace("-", "_")


def _only(
    names: Sequence[str], parameters: Sequence[Parameter], values: Sequence[Any]
) -> dict[str, Any]:
    """Return those of `names` that the values of parameters set."""
    pairs = zip(parameters, values, strict=True)
    settings = dict(ChainMap(*(spread(parameter, value) for parameter, value in pairs)))
    return {name: value for name, value in settings.items() if name in names}


def fits(settings: Mapping[str, Any]) -> bool:
    """Return whether a run can have these hyperparameters together."""
    try:
        Config(**settings)
    except ConfigError:
        return False
    return True


def fitting_heads(space: SearchSpace) -> list[int]:
    """Return the searched values of num_heads that divide every model_dim.

    Empty if all or none do: there is nothing to leave out.
    """
    if not space.is_ours:
        return []
    names, parameters = ("num_heads", "model_dim"), space.sweep.parameters
    by_name = {name: p for p in parameters for name in hyperparameter_names(p) if name in names}
    heads, widths = map(by_name.get, names)
    if heads is None or any(parameter.has_mappings for parameter in by_name.values()):
        return []
    default = space.fixed.get("model_dim", HYPERPARAMETERS["model_dim"].default)
    possible = widths.distribution.grid() if widths is not None else [default]
    counts = heads.distribution.grid()
    if possible is None or counts is None:
        return []
    if widths is not None and isinstance(widths.distribution, IntUniform) and len(possible) > 1:
        return []  # only 1 divides every whole number
    fit = [int(n) for n in counts if all(int(width) % int(n) == 0 for width in possible)]
    return fit if len(fit) < len(counts) else []


def check_space(sweep: SweepFile, fixed: Mapping[str, Any]) -> Diagnostics:
    """Check that our trainer can run the sweep, and as its author means."""
    diagnostics = Diagnostics(sweep.file, sweep.diagnostics.lines)
    metric = sweep.metric
    if metric is not None and metric.name not in METRICS:
        diagnostics.error(("metric", "name"), _unknown_metric(metric.name))
    seen: dict[str, str] = {}
    for parameter in sweep.parameters:
        given = _mentions(parameter)
        for name, key in given.items():
            if name in seen:
                diagnostics.error(key, f"{name} is given twice, also as {seen[name]}; keep one")
            elif name in fixed:
                diagnostics.error(key, f"{name} is also fixed to {fixed[name]}; remove one of them")
        if parameter.has_mappings:
            _check_mappings(parameter, diagnostics)
        elif not diagnostics.is_wrong(parameter.key):
            _check_parameter(parameter, diagnostics)
        seen |= dict.fromkeys(given, parameter.name)
    if sweep.method == "grid" and (too_large := too_many_configurations(sweep.parameters)):
        diagnostics.error(("parameters",), too_large)
    return diagnostics


def listed_settings(parameter: Parameter) -> Iterator[tuple[Key, str, Any]]:
    """Yield what a parameter's values set: key in the file, hyperparameter and value."""
    distribution = parameter.distribution
    if not isinstance(distribution, Categorical):
        return
    for subkey, value in values_by_key(parameter, distribution).items():
        key = (*parameter.key, *subkey)
        if not isinstance(value, Mapping):
            yield key, hyperparameter_name(parameter), value
            continue
        for path, each in innermost_members(value):
            yield (*key, *path), _member_name(path), each


def values_by_key(parameter: Parameter, distribution: Categorical) -> dict[Key, Any]:
    """Return each value by its key below the parameter."""
    if parameter.is_constant and distribution.kind == "constant":
        return {("value",): distribution.values[0]}
    return {("values", index): value for index, value in enumerate(distribution.values)}


def _mentions(parameter: Parameter) -> dict[str, Key]:
    """Return the hyperparameters that a parameter sets, each with the key that first does."""
    if not parameter.has_mappings:
        return {hyperparameter_name(parameter): parameter.key}
    first: dict[str, Key] = {}
    for key, name, _ in listed_settings(parameter):
        first.setdefault(name, key)
    return first


def _check_mappings(parameter: Parameter, diagnostics: Diagnostics) -> None:
    """Check that every value is a mapping of hyperparameters, each possible and given once."""
    assert isinstance(parameter.distribution, Categorical)
    for subkey, value in values_by_key(parameter, parameter.distribution).items():
        key = (*parameter.key, *subkey)
        if not isinstance(value, Mapping):
            diagnostics.error(key, f"got {value!r}; give a mapping, as the other values are")
            continue
        names = Counter(_member_name(path) for path, _ in innermost_members(value))
        for name in (name for name, count in names.items() if count > 1):
            diagnostics.error(key, f"{name} is given twice in this mapping; keep one")
    for key, name, value in listed_settings(parameter):
        if diagnostics.is_wrong(key):
            continue
        if name == DATA:
            diagnostics.error(key, "a text cannot be in a mapping; give data an entry of its own")
        elif name not in HYPERPARAMETERS:
            diagnostics.error(key, _unknown_name(name))
        else:
            _check_value(HYPERPARAMETERS[name], value, key, diagnostics)


def _check_parameter(parameter: Parameter, diagnostics: Diagnostics) -> None:
    name = hyperparameter_name(parameter)
    if name in HYPERPARAMETERS:
        _check_values(parameter, diagnostics)
    elif name != DATA:
        diagnostics.error(parameter.key, _unknown_name(name))


def _unknown_name(name: str) -> str:
    near = nearest_name(name)
    hint = f"did you mean {near}?" if near else "see fundamentallm train --help"
    return f"not a hyperparameter; {hint}"


def _check_values(parameter: Parameter, diagnostics: Diagnostics) -> None:
    """Check that a hyperparameter can have every value of a list, or both ends of a range."""
    known = HYPERPARAMETERS[hyperparameter_name(parameter)]
    distribution = parameter.distribution
    candidates: Mapping[Key, Any]
    if isinstance(distribution, Categorical):
        candidates = values_by_key(parameter, distribution)
    elif isinstance(distribution, IntUniform):
        candidates = {("min",): distribution.low, ("max",): distribution.high}
        if known.type is float:
            diagnostics.warn(
                parameter.key,
                "min and max without a fraction draw only whole numbers (int_uniform); for "
                f"fractions write min: {float(distribution.low)} and max: "
                f"{float(distribution.high)}",
            )
    elif known.type is int and (distribution.q is None or distribution.q % 1):  # pyright: ignore
        diagnostics.error(
            parameter.key,
            f"{known.name} is a whole number, but {distribution.kind} draws fractions; use "
            "int_uniform, or a q_ distribution with q: 1",
        )
        return
    else:
        candidates = {("min",): distribution.quantile(0.05), ("max",): distribution.quantile(0.95)}
    for subkey, value in candidates.items():
        _check_value(known, value, (*parameter.key, *subkey), diagnostics)


def _check_value(known: Hyperparameter, value: Any, key: Key, diagnostics: Diagnostics) -> None:
    try:
        known.parse(value)
    except ConfigError as error:
        diagnostics.error(key, str(error))


def _nearest(parameter: Parameter, default: Any) -> Any:
    """Return the parameter's value nearest to `default`."""
    distribution = parameter.distribution
    is_number = type(default) in (int, float)
    if isinstance(distribution, Continuous):
        if not is_number:
            return rounded_quantile(distribution, 0.5)
        low, high = distribution.bounds
        if distribution.q is None:
            return type(default)(min(max(default, low), high))
        return distribution.quantile(min(max(distribution.position(default), 1e-9), 1 - 1e-9))
    if isinstance(distribution, IntUniform):
        middle = (distribution.low + distribution.high) // 2
        nearest = round(default) if is_number else middle
        return min(max(nearest, distribution.low), distribution.high)
    values = distribution.choices  # pyright: ignore
    if default in values:
        return values[values.index(default)]  # 0, if the default is False
    numbers = [v for v in values if type(v) in (int, float)]
    if is_number and len(numbers) == len(values):
        return min(numbers, key=lambda value: abs(value - default))
    return values[0]


def _unknown_metric(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, METRICS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(METRICS)}"
    return f"our trainer does not log {name}; {hint}"
