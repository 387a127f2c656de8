"""Overview of a folder: its sweeps and runs, how far each is, and its best score."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from fundamentallm.files.run_folder import RunFolder
from fundamentallm.report.read_runs import MAX_DEPTH, is_alive, natural_key, read_run
from fundamentallm.report.results import Results
from fundamentallm.report.rules.progress import reached_target, runs_asked_for
from fundamentallm.status import FINISHED, RunStatus
from fundamentallm.sweep.file.sweep_file import Metric, read_sweep
from fundamentallm.sweep.store.sweep_folder import is_sweep

METRIC = Metric("val_loss")
"""Metric of a run outside sweeps."""


class State(StrEnum):
    """State of a sweep, or of a run that has not recorded its end."""

    DONE = "done"
    IN_PROGRESS = "in progress"
    STOPPED = "stopped"
    """Sweep with runs left, none of them in progress here."""
    KILLED = "killed"
    """Run whose process has ended without recording it."""
    UNFINISHED = "unfinished"
    """Run in progress on another machine, or killed there."""


@dataclass(frozen=True)
class Progress:
    """Progress of a sweep or a run."""

    folder: Path
    is_sweep: bool
    state: str
    """A `State`, or a run's status."""
    done: int
    """Runs of a sweep that have finished; steps of a run."""
    total: int | None
    """Runs that a sweep asks for, steps that a run is to take; None if endless or unknown."""
    metric: str
    best: float | None
    """Best value of the metric."""
    best_run: str = ""
    """Run of the sweep that has it."""


def find_sweeps_and_runs(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Yield the folders of sweeps, and of runs outside them, sorted by name; links are left out."""
    if depth > MAX_DEPTH or not os.path.isdir(folder) or (depth and os.path.islink(folder)):
        return
    if is_sweep(folder) or RunFolder(folder).holds_a_run():
        yield folder
        return
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError:  # not readable
        return
    for name in sorted(names, key=natural_key):
        yield from find_sweeps_and_runs(folder / name, depth + 1)


def of_sweep(folder: Path, results: Results) -> Progress:
    """Return the progress of the sweep in `folder`."""
    done = sum(run.status in FINISHED for run in results.runs)
    total, left = runs_asked_for(results), len(results.runs) - done
    if any(run.status == RunStatus.RUNNING for run in results.runs):
        state = State.IN_PROGRESS
    elif reached_target(results) or (not left and done >= (total or 1)):
        all_diverged = {run.status for run in results.runs} == {RunStatus.DIVERGED}
        state = RunStatus.DIVERGED if all_diverged else State.DONE
    else:
        state = State.STOPPED
    best = results.best
    score, name = (None, "") if best is None else (best.score, best.name)
    return Progress(folder, True, state, done, total, results.metric.name, score, name)


def of_new_sweep(folder: Path) -> Progress:
    """Return the progress of a sweep of which no run has started.

    Raises:
        SweepError: Its file cannot be read.
    """
    sweep = read_sweep(folder / "sweep.yaml", folder)
    return of_sweep(folder, Results(folder.name, sweep.ranks_by, [], sweep))


def of_run(folder: Path, metric: Metric = METRIC) -> Progress:
    """Return the progress of the run in `folder`, scored by `metric`."""
    run = read_run(folder, folder.name, metric, [])
    state = State.IN_PROGRESS if run.status == RunStatus.RUNNING else run.status
    if run.status == RunStatus.UNFINISHED and is_alive(run.summary) is False:
        state = State.KILLED
    logged = [curve.steps[-1] for curve in run.curves.values() if curve.steps]
    step, total = run.summary.get("step"), run.summary.get("total_steps")
    step = max(logged, default=0) if step is None else step
    return Progress(folder, False, state, step, total, metric.name, run.score)
