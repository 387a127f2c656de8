"""Rows as a pandas DataFrame, where pandas is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any


def frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return rows as a pandas DataFrame, or as a list of dicts without pandas."""
    try:
        pandas: Any = import_module("pandas")
    except ModuleNotFoundError:
        return [dict(row) for row in rows]
    return pandas.DataFrame(rows)
