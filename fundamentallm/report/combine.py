"""Combine results that were read from several places: sweeps on W&B, and folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fundamentallm.report.results import Results, RunResult, choose_metric, score_of
from fundamentallm.sweep.file.sweep_file import Metric


def combine(parts: Sequence[Results], metric: str = "") -> Results:
    """Return the runs of all parts as one result, which belongs to no single sweep.

    Args:
        parts: Results of different runs, one or more.
        metric: Name of the metric by which all parts were read; "" for that of each.
    """
    if len(parts) == 1:
        return parts[0]
    found = {(part.metric.name, part.metric.goal) for part in parts}
    notes = [f"{part.title}: {note}" for part in parts for note in part.notes]
    compared_by = replace(parts[0].metric, target=None)
    if len(found) > 1:
        compared_by = choose_metric(metric, None)
        listed = ", ".join(f"{name} ({goal})" for name, goal in sorted(found))
        notes.insert(
            0,
            f"the sweeps have different metrics: {listed}; runs are compared by "
            f"{compared_by.name} ({compared_by.goal}); choose another with --metric",
        )
    runs = [run for part in parts for run in _scored(part, compared_by)]
    title = f"{len(runs)} runs"
    return Results(title, compared_by, _named(parts, runs), notes=notes, searched=_searched(parts))


def _scored(part: Results, metric: Metric) -> Sequence[RunResult]:
    """Return the runs of a part with their scores by the metric."""
    if (part.metric.name, part.metric.goal) == (metric.name, metric.goal):
        return part.runs
    return [
        replace(run, score=score_of(run.curves, run.summary, run.status, metric))
        for run in part.runs
    ]


def _named(parts: Sequence[Results], runs: Sequence[RunResult]) -> list[RunResult]:
    """Return the runs with names that differ: those of several have the title before them."""
    titles = [part.title for part in parts for _ in part.runs]
    times = Counter(run.name for run in runs)
    return [
        run if times[run.name] == 1 else replace(run, name=f"{title}/{run.name}")
        for title, run in zip(titles, runs, strict=True)
    ]


def _searched(parts: Sequence[Results]) -> list[str] | None:
    """Return the names of all sweeps' parameters, if a program of others is among them."""
    if not any(part.is_foreign for part in parts):
        return None
    names: dict[str, None] = {}
    for part in parts:
        own = part.searched if part.searched is not None else list(part.parameters)
        if not own:
            return None
        names |= dict.fromkeys(own)
    return list(names)
