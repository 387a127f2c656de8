"""Runs side by side: differing settings, and results."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fundamentallm.config.fields import shown
from fundamentallm.metrics import score_text
from fundamentallm.printable import printable
from fundamentallm.report.results import Results, RunResult

LONGEST = 300
MOST_METRICS = 30


@dataclass(frozen=True)
class Row:
    """A setting or result, for every run."""

    name: str
    values: Sequence[Any]
    shown: Sequence[str]


def compare_runs(results: Results) -> list[Row]:
    """Settings that differ, then losses, speed and the last text of each.

    Runs of another program have the last values of their other metrics.
    """
    runs = results.runs
    rows = [_row(name, [run.settings.get(name) for run in runs]) for name in results.differing]
    rows.append(_row("status", [run.status for run in runs]))
    rows.append(_scores(results.metric.name, [run.score for run in runs]))
    rows.append(_row("best_step", [run.best_step(results.metric) for run in runs]))
    rows.append(_row("step", [run.summary.get("step") for run in runs]))
    rows.append(_row("reused_steps", [run.summary.get("reused_steps") for run in runs]))
    rows.append(_row("reused_from", [run.summary.get("reused_from") for run in runs]))
    rows.append(_scores("train_loss at the end", [_last(run, "train_loss") for run in runs]))
    speeds = [_median(run, "perf/tokens_per_second") for run in runs]
    rows.append(_numbers("tokens a second", speeds, 0))
    rows.append(_numbers("seconds", [run.summary.get("seconds") for run in runs], 1))
    rows.append(_row("parameters", [run.summary.get("parameters") for run in runs]))
    texts = [
        run.samples[-1][1].prompt + run.samples[-1][1].text if run.samples else None for run in runs
    ]
    rows.append(_row("it wrote", texts))
    others = dict.fromkeys(name for run in runs for name in run.last_values)
    rows += [
        _scores(f"{name} at the end", [run.last_values.get(name) for run in runs])
        for name in sorted(others, key=str)[:MOST_METRICS]
        if name not in (results.metric.name, "train_loss")
    ]
    return [row for row in rows if any(value is not None for value in row.values)]


def _row(name: str, values: Sequence[Any]) -> Row:
    return Row(name, values, [_text(value) for value in values])


def _scores(name: str, values: Sequence[float | None]) -> Row:
    return Row(name, values, [*map(score_text, values)])


def _numbers(name: str, values: Sequence[Any], places: int) -> Row:
    good = [value if isinstance(value, int | float) else None for value in values]
    return Row(name, good, ["" if value is None else f"{value:,.{places}f}" for value in good])


def _text(value: Any) -> str:
    text = "" if value is None else shown(value)
    return printable(text[:LONGEST]) + ("…" if len(text) > LONGEST else "")


def _last(run: RunResult, metric: str) -> float | None:
    values = run.curve(metric).values
    return values[-1] if values else None


def _median(run: RunResult, metric: str) -> float | None:
    values = run.curve(metric).values
    return statistics.median(values) if values else None
