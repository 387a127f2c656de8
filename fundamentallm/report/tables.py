"""Tables of a sweep's runs, and of what they logged, for notebooks and other programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fundamentallm.metrics import METRICS
from fundamentallm.report.results import Results, RunResult

RUN_COLUMNS = ("run", "status", "seconds")
"""Columns of a table of runs, beside the settings and the metric."""
HISTORY_COLUMNS = ("run", "step")
"""Columns of a table of logged rows, beside the metrics."""


@dataclass(frozen=True)
class Table:
    """Named columns, and rows with a value for each, or None."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def records(self) -> list[dict[str, Any]]:
        """Return each row as a dict with all columns."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def run_table(results: Results) -> Table:
    """Return a row for each run: its settings that the sweep searches or that differ, its score."""
    score = _apart(results.metric.name, RUN_COLUMNS, "metric")
    taken = (*RUN_COLUMNS, score)
    settings = {name: _apart(name, taken, "config") for name in _searched(results)}
    rows = [
        (
            run.name,
            str(run.status),
            *(run.settings.get(name) for name in settings),
            run.score,
            run.summary.get("seconds"),
        )
        for run in results.runs
    ]
    return Table(("run", "status", *settings.values(), score, "seconds"), rows)


def history_table(results: Results) -> Table:
    """Return a row for each step at which a run logged, with the values of all metrics."""
    logged = dict.fromkeys(name for run in results.runs for name in run.curves)
    metrics = dict.fromkeys(name for name in (*METRICS, *logged) if name in logged)
    columns = (*HISTORY_COLUMNS, *(_apart(name, HISTORY_COLUMNS, "metric") for name in metrics))
    rows = [
        (run.name, row["step"], *map(row.get, metrics))
        for run in results.runs
        for row in history(run)
    ]
    return Table(columns, rows)


def history(run: RunResult) -> list[dict[str, Any]]:
    """Return the rows that a run logged: `step`, and the metrics that have a value there."""
    rows: dict[int, dict[str, Any]] = {}
    for name, curve in run.curves.items():
        for step, value in zip(curve.steps, curve.values, strict=True):
            rows.setdefault(step, {"step": step})[name] = value
    return [rows[step] for step in sorted(rows)]


def _searched(results: Results) -> list[str]:
    """Return the settings that the sweep searches, and others in which runs differ."""
    names = [name for name, each in results.parameters.items() if not each.is_constant]
    return list(dict.fromkeys((*names, *results.varied)))


def _apart(name: str, taken: Sequence[str], kind: str) -> str:
    """Return the name of a column, with its kind before it where another column has the name."""
    return f"{kind}.{name}" if name in taken else name
