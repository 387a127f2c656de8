"""Merge of a sweep's stored runs with what their folders show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fundamentallm.report.choices import with_choices
from fundamentallm.report.read_runs import natural_key, read_run
from fundamentallm.report.results import Results, RunResult
from fundamentallm.status import FINISHED, IN_PROGRESS, RunStatus
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.records import Run
from fundamentallm.sweep.store.sweep_folder import SweepFolder
from fundamentallm.sweep.store.worker_locks import is_gone

UNFINISHED_STATUSES = (*IN_PROGRESS, RunStatus.INTERRUPTED)


def with_stored_runs(
    results: Results, folder: SweepFolder, space: SearchSpace, runs: Sequence[Run]
) -> Results:
    """Return a sweep's results as its storage counts the runs; notes name differences.

    Runs that ended or run on other machines, or whose folders are gone, have settings and scores
    only. If a run's folder was changed after its end, the stored result counts. Which runs are in
    progress, the storage and the workers' locks say. Other runs in the folder are left out.

    Args:
        results: Results read from `folder`.
        folder: The sweep's folder on this machine.
        space: The stored search space.
        runs: All stored runs.
    """
    if results.sweep is None:
        return results
    is_local, knows_scores = not folder.storage.exists(), results.metric == results.sweep.ranks_by
    here = {run.name: run for run in results.runs}
    names = {run.number: folder.run(run.number).path.name for run in runs}
    notes = list(results.notes)
    if others := sorted(set(here) - set(names.values()), key=natural_key):
        notes.append(f"left out as not of this sweep: {_list_some(others)}")
    merged = {name: run for name, run in here.items() if name not in others}
    shared = {**results.fixed, **_same_text(results), **space.fixed}
    elsewhere: list[Run] = []
    changed: list[str] = []
    for run in runs:
        name = names[run.number]
        is_running = run.last.status == RunStatus.RUNNING
        if is_running and not is_gone(folder.path, run.last.owner):
            if name not in merged:
                settings = {**shared, **space.settings(run.values)}
                merged[name] = _result(name, run, settings, knows_scores, space)
            elif merged[name].status not in FINISHED:  # else it ended just now
                merged[name] = replace(merged[name], status=RunStatus.RUNNING)
        elif name in merged and merged[name].status == RunStatus.RUNNING:
            merged[name] = replace(merged[name], status=RunStatus.UNFINISHED)
        if not run.is_finished:
            continue
        if is_local and name in merged and merged[name].status in IN_PROGRESS:  # it ended just now
            merged[name] = read_run(folder.run(run.number).path, name, results.metric, notes)
        # A run that another machine took over may lie here too, as far as it had come.
        if name not in merged or (merged[name].status in UNFINISHED_STATUSES and not is_local):
            elsewhere.append(run)
            settings = {**shared, **space.settings(run.values)}
            merged[name] = _result(name, run, settings, knows_scores, space)
        elif knows_scores and not _agree(merged[name], run):
            changed.append(name)
            merged[name] = replace(merged[name], status=run.last.status, score=run.last.score)
    if elsewhere and is_local:
        gone = _list_some([names[run.number] for run in elsewhere])
        notes.append(
            f"the folders of finished runs are gone: {gone}; their settings and scores come from "
            f"the sweep's storage; fundamentallm agent {folder.path} repeats them"
        )
    elif elsewhere:
        machines = ", ".join(sorted({run.last.owner.partition(":")[0] for run in elsewhere}))
        notes.append(
            f"{len(elsewhere)} of {len(merged)} runs ended on other machines "
            f"({machines}): their settings and scores are shown, without curves"
        )
    if changed:
        notes.append(
            f"changed after the sweep finished them: {_list_some(changed)}; the scores in the "
            "sweep's storage count"
        )
    in_order = [merged[name] for name in sorted(merged, key=natural_key)]
    ordered = with_choices(in_order, results.sweep)
    return replace(results, runs=ordered, notes=notes)


def _same_text(results: Results) -> dict[str, Any]:
    hashes = {run.settings.get("data_sha256") for run in results.runs} - {None}
    return {"data_sha256": hashes.pop()} if len(hashes) == 1 else {}


def _agree(result: RunResult, run: Run) -> bool:
    """Return whether a finished run's folder agrees with the stored run."""
    if result.status in UNFINISHED_STATUSES:
        return False
    scores = result.score, run.last.score
    return None in scores or math.isclose(*scores, rel_tol=1e-9)  # pyright: ignore[reportArgumentType]


def _list_some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _result(
    name: str, run: Run, settings: Mapping[str, Any], knows_score: bool, space: SearchSpace
) -> RunResult:
    last = run.last
    score = last.score if knows_score else None
    summary: dict[str, Any] = {"seconds": last.seconds}
    if last.status == RunStatus.STOPPED:
        summary["stopped_by"] = last.note
    if not space.is_ours:
        summary["program"] = space.sweep.program or "another program"
    return RunResult(name, last.status, settings, score, {}, summary, (), last.owner)
