"""Content of the page, in parts: a report holds all of them, a dashboard sends those that change.

A part is JSON under a key: `run/NAME`, `curves/NAME` and `sample/NAME` of each run, `figure/ID` of
each chart, and a few single ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from fundamentallm.config.fields import shown
from fundamentallm.metrics import score_text
from fundamentallm.printable import printable
from fundamentallm.report.curves import CurveParts
from fundamentallm.report.figures import make_plots
from fundamentallm.report.plot_style import PALETTE, SCALE, Plot
from fundamentallm.report.results import Results, RunResult
from fundamentallm.report.rules.claim import Evidence
from fundamentallm.report.rules.progress import stand_of

Parts = dict[str, Any]
LONGEST = 1_000
"""Characters of a setting or sample."""
MOST_SAMPLES = 100
"""Runs whose last sample is kept, the best ones."""
MOST_OTHERS = 20
"""Settings without a search, and metrics of another program, that have columns."""
OTHER_SETTINGS = "Settings that differ without being searched"
LAST_VALUES = "Last values of other metrics"


def run_parts(results: Results, curves: CurveParts | None = None) -> Parts:
    """Return the parts that show the runs themselves: heading, table, curves and samples.

    `curves` may know those of earlier results.
    """
    columns = list(_columns(results))
    parts: Parts = {
        "about": _about(results),
        "columns": [_without_cells(column) for column in columns],
        "notes": printable(results.remarks),
    }
    comparable = set(map(id, results.comparable))
    for run in results.runs:
        original = results.original(run)
        parts[f"run/{run.name}"] = {
            "status": run.status,
            "ranked": run.is_ranked,
            "early": run.is_ranked and id(original) not in comparable,
            "repeats": original is not run,
            "cells": [_cell(*column["cell"](run)) for column in columns],
        }
    for name, part in (curves or CurveParts())(results).items():
        parts[f"curves/{name}"] = part
    best_first = [*results.by_loss(results.runs), *(r for r in results.runs if not r.is_ranked)]
    originals = (run for run in best_first if results.original(run) is run)
    for run in [run for run in originals if run.samples][:MOST_SAMPLES]:
        step, sample = run.samples[-1]
        texts = shortened(sample.prompt), shortened(sample.text)
        parts[f"sample/{run.name}"] = {"step": step, "prompt": texts[0], "text": texts[1]}
    return parts


def figure_parts(results: Results, evidence: Evidence) -> Parts:
    """Return the parts that show all runs together: the charts, and their order."""
    plots = make_plots(results, evidence)
    parts: Parts = {f"figure/{plot.id}": _figure(plot) for plot in plots}
    return {**parts, "figures": [plot.id for plot in plots]}


def shortened(text: str) -> str:
    """Return text without control characters, at most LONGEST long."""
    return printable(text[:LONGEST]) + ("…" if len(text) > LONGEST else "")


def _figure(plot: Plot) -> dict[str, Any]:
    figure = json.loads(plot.figure.to_json() or "{}")
    return {
        "title": plot.title,
        "caption": plot.caption,
        "wide": plot.is_wide,
        "kind": plot.kind,
        "details": dict(plot.details),
        "data": figure["data"],
        "layout": figure["layout"],
    }


def _about(results: Results) -> dict[str, Any]:
    repeats = len(results.runs) - len(results.observations)
    summary = stand_of(results) if results.runs else "no runs yet"
    if repeats:
        summary += f"; {repeats} more repeat{'s' if repeats == 1 else ''} others"
    if results.sweep:
        summary += f"; method {results.sweep.method}"
    return {
        "title": results.title,
        "summary": summary,
        "metric": results.metric.name,
        "lower_is_better": results.metric.goal == "minimize",
        "filters": _filters(results),
        "palette": PALETTE,
        "scale": SCALE,
    }


def _filters(results: Results) -> str:
    """Return an example of what the table can be filtered by."""
    if not results.is_foreign:
        return "diverged, num_layers=4, val_loss<1.9"
    return shortened(", ".join(["done", *(f"{name}=..." for name in results.varied[:2])]))


def _columns(results: Results) -> Iterator[dict[str, Any]]:
    """Yield the table's columns; `cell` returns the text and the sorting key of a run's cell."""
    metric = results.metric

    def column(key: str, name: str, cell: Any, group: str = "") -> dict[str, Any]:
        return {"id": key, "name": shortened(name), "group": group, "cell": cell}

    yield column("run", "run", lambda run: (shortened(run.name), run.name[:200]))
    yield column("status", "status", partial(_status, results))
    yield column("score", metric.name, lambda run: (score_text(run.score), _key(run.score)))
    yield column("best_step", "best step", lambda run: _value(run.best_step(metric)))
    yield column("steps", "steps", lambda run: _steps(run.summary))
    yield column("seconds", "seconds", lambda run: _seconds(run.summary.get("seconds")))
    others = [name for name in results.differing if name not in results.varied][:MOST_OTHERS]
    for names, group in ((results.varied, ""), (others, OTHER_SETTINGS)):
        for name in names:
            setting = partial(_setting, name)
            yield column(f"setting/{name}", name, setting, group)
    metrics = dict.fromkeys(name for run in results.runs for name in run.last_values)
    for name in [name for name in metrics if name != metric.name][:MOST_OTHERS]:
        yield column(f"metric/{name}", name, partial(_last_value, name), LAST_VALUES)


def _status(results: Results, run: RunResult) -> tuple[str, str]:
    original = results.original(run)
    text = run.status if original is run else f"{run.status}, repeats {original.name}"
    return shortened(text), run.status


def _setting(name: str, run: RunResult) -> tuple[str, str]:
    return _value(run.settings.get(name))


def _last_value(name: str, run: RunResult) -> tuple[str, str]:
    return _value(run.last_values.get(name))


def _without_cells(column: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in column.items() if name != "cell"}


def _cell(text: str, key: str) -> str | list[str]:
    """Return the text, with its sorting key where that differs."""
    return text if text == key else [text, key]


def _value(value: Any) -> tuple[str, str]:
    return "" if value is None else shortened(shown(value)), _key(value)


def _seconds(value: Any) -> tuple[str, str]:
    is_known = isinstance(value, int | float)
    return (f"{value:.0f}", _key(value)) if is_known else ("", "")


def _steps(summary: Mapping[str, Any]) -> tuple[str, str]:
    """Return the steps of a run, with how many of them it reused: `400 (80 reused)`."""
    steps, reused = _value(summary.get("step")), summary.get("reused_steps")
    return (f"{steps[0]} ({_value(reused)[0]} reused)", steps[1]) if reused else steps


def _key(value: Any) -> str:
    """Return a sorting key: numbers sort as numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)[:200]
    return repr(value)
