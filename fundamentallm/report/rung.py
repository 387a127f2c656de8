"""Where runs that were stopped early can be compared with those that went on.

Hyperband stops most runs, each after as many evaluations as a rung has. Their scores are those of
runs of different lengths; but up to a rung all runs that reached it are alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fundamentallm.report.results import Results, RunResult
from fundamentallm.status import RunStatus

ENOUGH = 8
"""Runs that are compared at the end, if so many went on to it; else the last rung of so many."""
FEWEST = 5


@dataclass(frozen=True)
class Rung:
    """How far the compared runs have come."""

    evaluations: int
    runs: int
    """How many came so far."""


def last_rung(results: Results) -> Rung | None:
    """The last rung that enough runs reached; None where runs are best compared at their end."""
    runs, metric = results.observations, results.metric.name
    done = sum(run.is_ranked and run.status == RunStatus.DONE for run in runs)
    if done >= ENOUGH or not any(run.status == RunStatus.STOPPED for run in runs):
        return None
    hyperband = results.sweep.hyperband if results.sweep is not None else None
    stopped = {len(run.curve(metric)) for run in runs if run.status == RunStatus.STOPPED}
    bands = stopped if hyperband is None else set(hyperband.bands)
    rungs = [Rung(band, len(_reached(results, band))) for band in bands if band > 0]
    enough = min(ENOUGH, max((rung.runs for rung in rungs), default=0))
    if enough < max(FEWEST, done + 1):
        return None
    return max((rung for rung in rungs if rung.runs >= enough), key=lambda rung: rung.evaluations)


def at_rung(results: Results, rung: Rung) -> Results:
    """The runs that reached it, each as if it had ended there."""
    metric, count = results.metric, rung.evaluations
    runs = [
        replace(
            run, status=RunStatus.DONE, score=metric.best(run.curve(metric.name).values[:count])
        )
        for run in _reached(results, count)
    ]
    return replace(results, runs=runs, when=f" after {count} evaluations")


def _reached(results: Results, band: int) -> list[RunResult]:
    return [
        run
        for run in results.observations
        if len(run.curve(results.metric.name)) >= band
        and run.status not in (RunStatus.DIVERGED, RunStatus.IMPOSSIBLE)
        and not run.is_range_test
    ]
