"""What a sweep's storage knows of its runs, beside what their folders show: one truth of both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fundamentallm.report.read_runs import in_order
from fundamentallm.report.results import Results, RunResult
from fundamentallm.status import RunStatus
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.records import Run
from fundamentallm.sweep.store.sweep_folder import SweepFolder

OPEN = (RunStatus.UNFINISHED, RunStatus.INTERRUPTED)


def with_stored_runs(
    results: Results, folder: SweepFolder, space: SearchSpace, runs: Sequence[Run]
) -> Results:
    """`results` of a sweep's folder, as the sweep itself counts its runs; notes say what differs.

    Of runs that ended on other machines, or whose folders are gone, there are settings and scores,
    and no curves, samples or steps. Of one whose folder was changed after its end, what the sweep
    found counts. What lies there and is no run of the sweep is left out.

    Args:
        results: What was read from `folder`.
        folder: The sweep's, on this machine.
        space: The sweep's, as its storage has it.
        runs: All its runs, from there too.
    """
    if results.sweep is None:
        return results
    is_local, knows_scores = not folder.storage.exists(), results.metric == results.sweep.ranks_by
    here = {run.name: run for run in results.runs}
    names = {run.number: folder.run(run.number).path.name for run in runs}
    notes = list(results.notes)
    if others := sorted(set(here) - set(names.values()), key=in_order):
        notes.append(f"left out as not of this sweep: {_some(others)}")
    merged = {name: run for name, run in here.items() if name not in others}
    shared = {**results.fixed, **_same_text(results), **space.fixed}
    away: list[Run] = []
    changed: list[str] = []
    for run in runs:
        name = names[run.number]
        if not run.is_finished:
            continue
        # A run that another machine took over may lie here too, as far as it had come.
        if name not in merged or (merged[name].status in OPEN and not is_local):
            away.append(run)
            settings = {**shared, **space.settings(run.values)}
            merged[name] = _result(name, run, settings, knows_scores)
        elif knows_scores and not _agrees(merged[name], run):
            changed.append(name)
            merged[name] = replace(merged[name], status=run.last.status, score=run.last.score)
    if away and is_local:
        gone = _some([names[run.number] for run in away])
        notes.append(
            f"the folders of finished runs are gone: {gone}; their settings and scores come from "
            f"the sweep's storage; fundamentallm agent {folder.path} repeats them"
        )
    elif away:
        machines = ", ".join(sorted({run.last.owner.partition(":")[0] for run in away}))
        notes.append(
            f"{len(away)} of {len(merged)} runs ended on other machines "
            f"({machines}): their settings and scores are shown, without curves"
        )
    if changed:
        notes.append(
            f"changed after the sweep finished them: {_some(changed)}; the scores in the "
            "sweep's storage count"
        )
    ordered = [merged[name] for name in sorted(merged, key=in_order)]
    return replace(results, runs=ordered, notes=notes)


def _same_text(results: Results) -> dict[str, Any]:
    hashes = {run.settings.get("data_sha256") for run in results.runs} - {None}
    return {"data_sha256": hashes.pop()} if len(hashes) == 1 else {}


def _agrees(shown: RunResult, run: Run) -> bool:
    """Whether a folder says of a finished run what the sweep noted."""
    if shown.status in OPEN:
        return False
    scores = shown.score, run.last.score
    return None in scores or math.isclose(*scores, rel_tol=1e-9)  # pyright: ignore[reportArgumentType]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _result(name: str, run: Run, settings: Mapping[str, Any], knows_score: bool) -> RunResult:
    last = run.last
    score = last.score if knows_score else None
    return RunResult(
        name, last.status, settings, score, {}, {"seconds": last.seconds}, (), last.owner
    )
