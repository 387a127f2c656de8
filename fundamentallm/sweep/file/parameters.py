"""Parameters of a sweep file: names, nesting, and the distribution of each."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from fundamentallm.sweep.file.diagnostics import Diagnostics, Key
from fundamentallm.sweep.file.distributions import (
    Categorical,
    Continuous,
    Distribution,
    IntUniform,
    exp,
)
from fundamentallm.sweep.file.schema import BY_EXPONENTS, DEFAULTS, DISTRIBUTIONS, ENDS
from fundamentallm.sweep.file.yaml_writer import scalar_text

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Parameter:
    """Parameter of a sweep."""

    path: tuple[str, ...]
    """Names of the nested `parameters` around it, and its own."""
    distribution: Distribution

    @property
    def name(self) -> str:
        """Return the full name: `optimizer.learning_rate`."""
        return ".".join(self.path)

    @property
    def key(self) -> Key:
        """Return its key in the file."""
        return tuple(word for name in self.path for word in ("parameters", name))

    def entry(self, content: Mapping[str, Any]) -> Any:
        """Return its entry in the content of a file."""
        found: Any = content
        for word in self.key:
            found = found[word]
        return found

    @property
    def is_constant(self) -> bool:
        """Return whether it has only one value, so that it is not searched."""
        return isinstance(self.distribution, Categorical) and len(self.distribution.values) == 1

    @property
    def has_mappings(self) -> bool:
        """Return whether a value is a mapping: one choice that holds several settings."""
        distribution = self.distribution
        return isinstance(distribution, Categorical) and any(
            isinstance(value, Mapping) for value in distribution.values
        )


SMALLEST_Q = 1e-15
"""Least step that does not vanish in the rounding of numbers around 1."""


def read_parameters(
    content: object, diagnostics: Diagnostics, path: tuple[str, ...] = ()
) -> list[Parameter]:
    """Return the parameters in W&B's order, sorted at every level; add errors to `diagnostics`."""
    key: Key = (*(word for name in path for word in ("parameters", name)), "parameters")
    if not isinstance(content, dict) or not content:
        diagnostics.error(key, "give at least one parameter, as NAME: {values: [...]}")
        return []
    found: list[Parameter] = []
    for name in sorted(content):
        entry = content[name]
        here = (*key, name)
        if not NAME.fullmatch(name):
            diagnostics.warn(here, "W&B's schema warns of this name, but W&B runs it")
        if not isinstance(entry, dict):
            diagnostics.error(here, f"got {entry!r}; give a mapping, e.g. {{value: {entry}}}")
        elif "parameters" in entry:
            for extra in sorted(set(entry) - {"parameters"}):
                diagnostics.error((*here, extra), "not allowed beside nested parameters")
            found += read_parameters(entry["parameters"], diagnostics, (*path, name))
        else:
            distribution = read_distribution(entry, here, diagnostics)
            if distribution is not None:
                found.append(Parameter((*path, name), distribution))
    return found


def read_distribution(
    entry: dict[str, Any], key: Key, diagnostics: Diagnostics
) -> Distribution | None:
    """Return the distribution of a parameter's entry; None, with an error, if W&B refuses it."""
    kind = entry["distribution"] if "distribution" in entry else _infer(entry)
    if kind is None and "distribution" not in entry:
        given = ", ".join(sorted(entry)) or "nothing"
        diagnostics.error(
            key, f"got {given}; give value, values, min and max, or a distribution with its fields"
        )
        return None
    if not isinstance(kind, str) or kind not in DISTRIBUTIONS:
        near = get_close_matches(str(kind), DISTRIBUTIONS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(DISTRIBUTIONS)}"
        diagnostics.error((*key, "distribution"), f"W&B has no distribution {kind}; {hint}")
        return None
    fields, _ = DISTRIBUTIONS[kind]
    for extra in sorted(set(entry) - set(fields) - {"distribution"}):
        is_inside = isinstance(entry[extra], dict)
        hint = f"; if it is a parameter too, indent it like {key[-1]}" if is_inside else ""
        diagnostics.error((*key, extra), f"{kind} takes only {', '.join(fields)}{hint}")
    if missing := [f for f in fields if f not in entry and f not in DEFAULTS]:
        diagnostics.error(key, f"{kind} needs {' and '.join(missing)}")
        return None
    if kind == "constant":
        return Categorical(kind, (entry["value"],))
    if kind.startswith("categorical"):
        return _categorical(kind, entry, key, diagnostics)
    return _numeric(kind, entry, key, diagnostics)


def _infer(entry: Mapping[str, Any]) -> str | None:
    """Return the distribution that W&B infers from the fields."""
    if "values" in entry:
        return "categorical_w_probabilities" if "probabilities" in entry else "categorical"
    if "value" in entry:
        return "constant"
    if "min" in entry and "max" in entry:
        whole = all(type(entry[end]) is int for end in ENDS)
        return "int_uniform" if whole else "uniform"
    return None


def _categorical(
    kind: str, entry: Mapping[str, Any], key: Key, diagnostics: Diagnostics
) -> Distribution | None:
    values, shares = entry["values"], entry.get("probabilities")
    if not isinstance(values, list) or not values:
        diagnostics.error((*key, "values"), f"got {values!r}; give a list of at least one value")
        return None
    if shares is None:
        return Categorical(kind, tuple(values))
    good = isinstance(shares, list) and all(_is_number(share) and share >= 0 for share in shares)
    if not good or len(shares) != len(values):
        message = f"give one number of 0 or more for each of the {len(values)} values"
    elif not math.isclose(sum(shares), 1.0, rel_tol=1e-5, abs_tol=1e-8):  # numpy.isclose's
        message = f"they add up to {sum(shares):g}; make that 1"
    else:
        return Categorical(kind, tuple(values), tuple(float(share) for share in shares))
    diagnostics.error((*key, "probabilities"), message)
    return None


def _numeric(
    kind: str, entry: Mapping[str, Any], key: Key, diagnostics: Diagnostics
) -> Distribution | None:
    """Return a distribution whose fields are numbers."""
    names, _ = DISTRIBUTIONS[kind]
    fields = {name: entry.get(name, DEFAULTS.get(name)) for name in names}
    wrong = {name: _wrong_number(kind, name, number) for name, number in fields.items()}
    for name in filter(wrong.get, wrong):
        diagnostics.error((*key, name), f"got {fields[name]!r}; {wrong[name]}")
    if any(wrong.values()):
        return None
    first, second = (fields[name] for name in names[:2])
    if "min" in fields and first >= second:
        diagnostics.error((*key, "min"), f"{first} is not less than max, {second}")
        return None
    if kind in BY_EXPONENTS:
        ends = [exp(-e if kind.startswith("inv") else e) for e in (first, second)]
        diagnostics.warn(
            key,
            f"{kind} takes exponents of e: this draws from {min(ends):.3g} to {max(ends):.3g}; "
            f"it is deprecated in W&B; use {kind}_values with the values themselves",
        )
        if math.inf in ends:
            diagnostics.error(key, f"e to the power of {max(abs(first), abs(second))} is too large")
            return None
    if kind == "int_uniform":
        return IntUniform(first, second)
    if "distribution" not in entry and int in (type(first), type(second)) and len(key) == 2:
        diagnostics.refused_by_wandb(
            key,
            f"min {first} and max {second} are a whole number and a fraction, which W&B's client "
            f"refuses; write {scalar_text(float(first))} and {scalar_text(float(second))}",
        )
    given_bounds = None
    family = kind.removeprefix("q_")
    if family.endswith("_values"):
        family = family.removesuffix("_values")
        given_bounds = first, second
        first, second = math.log(first), math.log(second)
        if family == "inv_log_uniform":
            first, second = -second, -first
    return Continuous(kind, family, first, second, fields.get("q"), given_bounds)


def _wrong_number(kind: str, name: str, number: object) -> str:
    """Return what to give instead of a wrong number; "" if it is right."""
    if not _is_number(number):
        return "give a number"
    assert isinstance(number, int | float)
    if kind == "int_uniform" and type(number) is not int:
        return "give a whole number, without a point"
    if name == "q" and number < SMALLEST_Q:
        return "give a number above 0" if number <= 0 else f"give {SMALLEST_Q:g} or more"
    if name == "sigma" and number < 0:
        return "give a number of 0 or more"
    if name in ("a", "b") and number <= 0:  # W&B's schema allows 0, where scipy gives nan
        return "give a number above 0"
    if name == "min" and kind.endswith("_values") and number <= 0:
        return "a logarithm needs a number above 0"
    return ""


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # pyright: ignore
