"""Rungs at which runs that were stopped early can be compared with the others.

Hyperband stops most runs, each after as many evaluations as a rung has. Their scores are those of
runs of different lengths; but up to a rung all runs that reached it are alike. A run that a person
stopped sets no rung: it may have ended after its first evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fundamentallm.report.results import Results, RunResult
from fundamentallm.status import HAND, RunStatus

MIN_AT_END = 8
"""Runs needed to compare at the end; else the last rung with so many is used."""
MIN_AT_RUNG = 5


@dataclass(frozen=True)
class Rung:
    """Number of evaluations at which runs are compared."""

    evaluations: int
    runs: int
    """Number of runs that reached it."""

    def text(self, results: Results) -> str:
        """Return the number of evaluations, in words; another program logs values."""
        return f"{self.evaluations} {'values' if results.is_foreign else 'evaluations'}"


def last_rung(results: Results) -> Rung | None:
    """Return the last rung that enough runs reached; None to compare runs at their end."""
    runs, metric = results.observations, results.metric.name
    done = sum(run.is_ranked and run.status == RunStatus.DONE for run in runs)
    early = [run for run in runs if run.status == RunStatus.STOPPED]
    early = [run for run in early if run.summary.get("stopped_by") != HAND]
    if done >= MIN_AT_END or not early:
        return None
    hyperband = results.sweep.hyperband if results.sweep is not None else None
    stopped = {len(run.curve(metric)) for run in early}
    bands = stopped if hyperband is None else set(hyperband.bands)
    rungs = [Rung(band, len(_reached(results, band))) for band in bands if band > 0]
    enough = min(MIN_AT_END, max((rung.runs for rung in rungs), default=0))
    if enough < max(MIN_AT_RUNG, done + 1):
        return None
    return max((rung for rung in rungs if rung.runs >= enough), key=lambda rung: rung.evaluations)


def at_rung(results: Results, rung: Rung) -> Results:
    """Return the runs that reached it, each as if it had ended there."""
    metric, count = results.metric, rung.evaluations
    runs = [
        replace(
            run, status=RunStatus.DONE, score=metric.best(run.curve(metric.name).values[:count])
        )
        for run in _reached(results, count)
    ]
    return replace(results, runs=runs, when=f" after {rung.text(results)}")


def _reached(results: Results, band: int) -> list[RunResult]:
    return [
        run
        for run in results.observations
        if len(run.curve(results.metric.name)) >= band
        and run.status not in (RunStatus.DIVERGED, RunStatus.IMPOSSIBLE)
        and not run.is_range_test
    ]
