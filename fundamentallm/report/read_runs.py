"""Read `Results` from folders of sweeps or runs, or folders that hold them.

An incomplete run is no error: a note names what cannot be read, and the rest is
shown.
"""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from fundamentallm.config.fields import ConfigError
from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.errors import FundamentallmError, one_line
from fundamentallm.files.held_folder import why_misplaced
from fundamentallm.files.ownership import FILES
from fundamentallm.files.run_folder import RunFolder, RunFolderError, read_row
from fundamentallm.metrics import finite
from fundamentallm.report.choices import with_choices
from fundamentallm.report.results import (
    Curve,
    Results,
    RunResult,
    assumed_goal_notes,
    choose_metric,
    missing_metric_note,
    plain_settings,
    plain_summary,
    score_of,
    unscored_notes,
)
from fundamentallm.status import RunStatus, is_stopped_early
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import Metric, SweepFile, read_sweep
from fundamentallm.sweep.store.sweep_folder import SweepFolder

DIGITS = re.compile(r"(\d+)")
MAX_DEPTH = 3  # folders below the one that was given
MOST_SECONDS_APART = 5.0
"""Seconds by which a run's start and the time of its config.yaml may differ."""


class ReportError(FundamentallmError):
    """There is nothing to report on."""


class NoRunsError(ReportError):
    """A folder holds no run yet."""


class NoAnswerError(ReportError):
    """W&B does not answer; it may later."""


RunReader = Callable[[Path, str, Metric, list[str]], RunResult]
"""`read_run`, or one that knows earlier results."""


def read_results(
    paths: Sequence[str | Path], metric: str = "", *, reader: RunReader | None = None
) -> Results:
    """Read all runs in `paths`.

    Args:
        paths: Folders of runs or sweeps, or folders that hold them.
        metric: Metric that compares runs; by default the sweep's, else `val_loss`.
        reader: Reads one run; by default `read_run`.

    Raises:
        NoRunsError: A folder holds no run.
        ReportError: A run's files are links.
        SweepError: A sweep's file cannot be read.
    """
    folders: list[Path] = []
    skipped: list[str] = []
    sweeps: list[Path] = []
    for folder_given in map(Path, paths):
        if os.path.lexists(folder_given / "sweep.yaml"):
            SweepFolder(folder_given).check_whole()
        found = list(_find_runs(folder_given, skipped))
        if not found:
            raise NoRunsError(_no_runs_message(folder_given))
        folders += [folder for folder in found if folder not in folders]
        sweeps += [folder_given] if (folder_given / "sweep.yaml").is_file() else []
    sweep, notes = _common_sweep(sweeps, folders)
    notes += skipped
    around = _sweeps_around(folders, {} if sweep is None else {sweeps[0]: sweep})
    own = sweep.metric if sweep is not None else _common_metric(around.values())
    compared_by = choose_metric(metric, own)
    names = _names(folders)
    read = reader or read_run
    runs = [read(folder, names[folder], compared_by, notes) for folder in folders]
    title = Path(paths[0]).resolve().name if len(paths) == 1 else f"{len(runs)} runs"
    if not any(run.score is not None for run in runs):
        notes.append(missing_metric_note(runs, compared_by, sweep))
    else:
        notes += assumed_goal_notes(compared_by, own)
    notes += unscored_notes(runs)
    searched: list[str] | None = None
    is_foreign = any(run.program for run in runs)
    if is_foreign:
        pairs = zip(runs, folders, strict=True)
        runs = [each for run, path in pairs for each in with_choices([run], around[path.parent])]
        searched = _searched(around.values())
    else:
        runs = with_choices(runs, sweep)
    refinable = sweep is not None and not is_foreign
    remarks = SweepFolder(sweeps[0]).read_notes() if sweep is not None else ""
    return Results(
        title, compared_by, runs, sweep, notes,
        refinable=refinable, remarks=remarks, searched=searched,
    )  # fmt: skip


def read_run(path: Path, name: str, metric: Metric, notes: list[str]) -> RunResult:
    """Read one run; missing parts go to `notes`."""
    folder = RunFolder(path)
    summary = plain_summary(folder.read_summary())
    if not summary and folder.summary.exists():
        notes.append(f"{name}: summary.json cannot be read")
    try:
        config = folder.read_config()
        is_foreign = "program" in summary
        settings = plain_settings(config) if is_foreign else _parsed_settings(config, name, notes)
    except RunFolderError as error:
        settings = {}
        notes.append(f"{error}; its settings are unknown")
    curves = _read_curves(folder, name, notes)
    status = str(summary.get("status", RunStatus.UNFINISHED))
    if status == RunStatus.RUNNING and not is_alive(summary):
        status = RunStatus.UNFINISHED
    if is_stopped_early(status, summary.get("stopped_by")):
        status = RunStatus.STOPPED
    score = score_of(curves, summary, status, metric)
    try:
        samples = tuple(folder.read_samples())
    except (OSError, ValueError):
        samples = ()
        notes.append(f"{name}: samples.txt cannot be read")
    period = _period(folder, summary, status)
    return RunResult(name, status, settings, score, curves, summary, samples, str(path), period)


def _period(
    folder: RunFolder, summary: Mapping[str, Any], status: str
) -> tuple[float, float] | None:
    """Return when a run was in progress, by its files; None if they were copied without times."""
    changed = {name: stamp[0] / 1e9 for name, stamp in folder.stamps().items()}
    began, seconds = changed.get(folder.config.name), summary.get("seconds")
    if began is None:
        return None
    if status == RunStatus.UNFINISHED:
        return began, max(began, changed.get(folder.metrics.name, began))
    if not isinstance(seconds, int | float) or folder.summary.name not in changed:
        return None
    end = changed[folder.summary.name]
    is_kept = abs(end - seconds - began) <= max(MOST_SECONDS_APART, seconds / 4)
    return (end - seconds, end) if is_kept else None


def is_alive(summary: Mapping[str, Any]) -> bool | None:
    """Return whether the process of a run is alive; None if it ran on another machine.

    The summary is that of a run without an end.
    """
    process = summary.get("process")
    if summary.get("host") != socket.gethostname() or type(process) is not int:
        return None
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's process
        return True
    return True


def _parsed_settings(config: Mapping[str, Any], name: str, notes: list[str]) -> dict[str, Any]:
    """Return settings parsed as our trainer does; 1e-3 is text in YAML."""
    settings: dict[str, Any] = {}
    for key, value in config.items():
        try:
            known = HYPERPARAMETERS.get(key)
            setting = value if known is None else known.parse(value)
            if type(setting) in (int, float) and finite(setting) is None:
                raise ConfigError(f"{key} is not a finite number")
            settings[key] = setting
        except ConfigError as error:
            notes.append(f"{name}: config.yaml: {error}; it is left out")
    return settings


def _find_runs(path: Path, skipped: list[str], depth: int = 0) -> Iterator[Path]:
    """Yield folders of runs, sorted by name; hidden ones are left out.

    Folders that may not be read, and links, are noted in `skipped`.

    Raises:
        ReportError: A run's file is a link or a special file.
    """
    if not os.path.isdir(path):  # Path's own raises where it may not look
        return
    if depth and os.path.islink(path):
        skipped.append(
            f"{path}: links are not followed; give it as an argument beside {path.parent}"
        )
    elif RunFolder(path).holds_a_run():
        if reason := why_misplaced(path, files=FILES):
            raise ReportError(reason)
        yield path
    elif depth < MAX_DEPTH:
        try:
            names = [name for name in os.listdir(path) if not name.startswith(".")]
        except OSError as error:
            skipped.append(f"{path}: cannot be read ({error.strerror})")
            return
        for name in sorted(names, key=natural_key):
            yield from _find_runs(path / name, skipped, depth + 1)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Return a sorting key that orders numbers by size: run-10000 comes after run-9999."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in DIGITS.split(name)]


def _no_runs_message(path: Path) -> str:
    if not os.path.exists(path):
        return f"{path}: no such folder; give that of a run or a sweep, or ENTITY/PROJECT/SWEEP"
    if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
        return f"{path}: cannot be read (Permission denied)"
    if not path.is_dir():
        return f"{path}: not a folder; give that of a run or a sweep"
    if (path / "sweep.yaml").is_file():
        return (
            f"{path}: no run of this sweep has started; start one with fundamentallm agent {path}"
        )
    return f"{path}: no run found; give a folder with config.yaml and metrics.jsonl"


def _common_sweep(sweeps: Sequence[Path], folders: Sequence[Path]) -> tuple[SweepFile | None, list]:
    """Return the sweep that all runs belong to, if it can be read, and notes."""
    if len(sweeps) != 1 or any(sweeps[0] not in folder.parents for folder in folders):
        return None, []
    try:
        return read_sweep(sweeps[0] / "sweep.yaml", sweeps[0]), []
    except SweepError as error:
        return None, [f"the sweep file is not used: {one_line(error, 200)}"]


def _sweeps_around(
    folders: Sequence[Path], known: Mapping[Path, SweepFile]
) -> dict[Path, SweepFile | None]:
    """Return the sweep of each folder that holds runs, where it is a sweep's.

    Sweeps that are `known` are not read again.
    """
    around: dict[Path, SweepFile | None] = dict(known)
    for parent in dict.fromkeys(folder.parent for folder in folders):
        if parent in around:
            continue
        try:
            around[parent] = read_sweep(parent / "sweep.yaml", parent)
        except SweepError:
            around[parent] = None
    return around


def _common_metric(sweeps: Iterable[SweepFile | None]) -> Metric | None:
    """Return the metric of all these sweeps, without a target; None if it is not the same."""
    metrics = [None if sweep is None else sweep.metric for sweep in sweeps]
    known = {(metric.name, metric.goal) for metric in metrics if metric is not None}
    return Metric(*known.pop()) if len(known) == 1 and None not in metrics else None


def _searched(sweeps: Iterable[SweepFile | None]) -> list[str] | None:
    """Return the names of the sweeps' parameters; None if a sweep is unknown."""
    names: dict[str, None] = {}
    for sweep in sweeps:
        if sweep is None:
            return None
        names |= dict.fromkeys(parameter.name for parameter in sweep.parameters)
    return list(names)


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """Return names of equal depth, with as many parent folders as make them unique."""
    parents = {parent: parent.resolve() for parent in {folder.parent for folder in folders}}
    paths = {
        folder: (folder.resolve() if folder.is_symlink() else parents[folder.parent] / folder.name)
        for folder in folders
    }
    ends = {folder: path.parts for folder, path in paths.items()}
    ways = Counter(ends.values())
    words = next(n for n in count(1) if len({parts[-n:] for parts in ways}) == len(ways))
    return {
        folder: "/".join(parts[-words:]) if ways[parts] == 1 else str(folder)
        for folder, parts in ends.items()
    }


def _read_curves(folder: RunFolder, name: str, notes: list[str]) -> dict[str, Curve]:
    """Return all curves by metric."""
    lines = folder.metric_lines()
    if not folder.metrics.is_file():
        notes.append(f"{name}: metrics.jsonl is missing")
    by_step: dict[str, dict[int, float]] = {}
    unreadable = 0
    for line in lines:
        row = read_row(line)
        if row is None:
            unreadable += line.endswith("\n")  # a last one that a kill cut short is nobody's fault
            continue
        step = row.pop("step")
        for key, value in row.items():
            by_step.setdefault(key, {})[step] = value
    if unreadable:
        notes.append(f"{name}: {unreadable} lines of metrics.jsonl cannot be read and are left out")
    return {key: Curve.of(values) for key, values in by_step.items()}
