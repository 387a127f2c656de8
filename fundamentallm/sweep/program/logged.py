"""Metrics, summary and config that a program logged, by their flat names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fundamentallm.metrics import finite


@dataclass(frozen=True)
class LoggedRow:
    """Finite numbers that a program logged at one step, by flat names such as `eval.loss`."""

    step: int
    metrics: dict[str, float]


@dataclass
class Logged:
    """Everything that a program logged since the last call."""

    rows: list[LoggedRow] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    """New values of the summary: numbers, texts and booleans; None for one that was removed."""
    config: dict[str, Any] = field(default_factory=dict)
    """New values of the config: numbers, texts, booleans, None, and lists of them."""

    def add(self, later: Logged) -> None:
        """Add what was logged after this."""
        self.rows += later.rows
        self.summary |= later.summary
        self.config |= later.config


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of nested mappings with names joined by a dot, as W&B shows them.

    Media, such as W&B's tables and histograms, are left out.
    """
    names = dict(_flat(values, ""))
    media = tuple(name.removesuffix("_type") for name in names if name.endswith("._type"))
    if not media:
        return names
    return {name: value for name, value in names.items() if not name.startswith(media)}


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers by their flat names; a boolean is no number."""
    return {name: value for name, value in flat(values).items() if finite(value) is not None}


def settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with flat names; a list that holds mappings becomes JSON text."""
    return {name: _setting(value) for name, value in flat(values).items()}


def _setting(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) and _has_mapping(value) else value


def _has_mapping(values: list[Any]) -> bool:
    return any(
        isinstance(value, dict) or (isinstance(value, list) and _has_mapping(value))
        for value in values
    )
