"""Values of a run as parameters of an Optuna trial, for its plots and dashboard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from fundamentallm.sweep.file.distributions import Continuous, IntUniform
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.search.base import Values


def to_optuna(
    values: Values, parameters: Sequence[Parameter]
) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """Return parameters and distributions of a trial, without constants."""
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    for parameter in parameters:
        if parameter.is_constant:
            continue
        value, distribution = values[parameter.name], parameter.distribution
        if isinstance(distribution, Continuous):
            low, high = distribution.ends
            log = distribution.in_logs and low > 0
            distributions[parameter.name] = FloatDistribution(low, high, log=log)
            params[parameter.name] = min(max(float(value), low), high)
        elif isinstance(distribution, IntUniform):
            distributions[parameter.name] = IntDistribution(distribution.low, distribution.high)
            params[parameter.name] = value
        else:
            choices = distribution.grid() or distribution.values  # pyright: ignore
            plain = all(isinstance(choice, str | int | float) for choice in choices)
            plain = plain and len(set(choices)) == len(choices)
            shown = tuple(choices) if plain else tuple(map(_text, choices))
            distributions[parameter.name] = CategoricalDistribution(shown)
            params[parameter.name] = value if plain else _text(value)
    return params, distributions


def _text(value: Any) -> str:
    """Return a value that Optuna cannot hold as text; the order of a mapping does not matter."""
    return json.dumps(value, sort_keys=True)
