"""Runs of a sweep whose folders lie on other machines: what the sweep's storage knows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fundamentallm.report.read_runs import in_order
from fundamentallm.report.results import Results, RunResult
from fundamentallm.sweep.points import Points
from fundamentallm.sweep.records import Run
from fundamentallm.sweep.sweep_folder import SweepFolder


def with_runs_elsewhere(
    results: Results, folder: SweepFolder, runs: Sequence[Run], fixed: Mapping[str, Any]
) -> Results:
    """`results` of a sweep's folder, with those of `runs` that ended on other machines.

    Of these there are settings and scores, and no curves, samples or steps; a note says so.

    Args:
        results: What was read from `folder`.
        folder: The sweep's, on this machine.
        runs: All runs of the sweep, as its storage has them.
        fixed: Settings that all of them share.
    """
    if results.sweep is None:
        return results
    here = {run.name: run for run in results.runs}
    names = {run.number: folder.run(run.number).path.name for run in runs}
    # A run that another machine took over may lie here too, as far as it had come.
    unended = {name for name, run in here.items() if run.status in ("unfinished", "interrupted")}
    away = [
        run
        for run in runs
        if run.is_finished and (names[run.number] not in here or names[run.number] in unended)
    ]
    if not away:
        return results
    points = Points(results.sweep, fixed)
    hashes = {run.settings.get("data_sha256") for run in results.runs} - {None}
    same_text = {"data_sha256": hashes.pop()} if len(hashes) == 1 else {}
    shared = {**results.fixed, **same_text, **fixed}
    merged = here | {
        names[run.number]: _result(
            names[run.number], run, {**shared, **points.settings(run.values)}
        )
        for run in away
    }
    machines = ", ".join(sorted({run.last.owner.partition(":")[0] for run in away}))
    note = (
        f"{len(away)} of {len(merged)} runs did not end in this folder but elsewhere ({machines}): "
        "of them there are settings and scores, and no curves"
    )
    return replace(
        results,
        runs=[merged[name] for name in sorted(merged, key=in_order)],
        notes=[*results.notes, note],
    )


def _result(name: str, run: Run, settings: Mapping[str, Any]) -> RunResult:
    last = run.last
    return RunResult(
        name, last.status, settings, last.score, {}, {"seconds": last.seconds}, (), last.owner
    )
