"""Steering of a sweep while it runs: from any terminal or machine that reaches its storage.

Nothing here talks to a worker. Every worker reads the storage every two seconds, and a new one
finds there what was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fundamentallm.metrics import runs_text
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.search.hand_picked import read_configuration
from fundamentallm.sweep.store.definition import SweepDefinition
from fundamentallm.sweep.store.records import Run
from fundamentallm.sweep.store.run_store import RunStore
from fundamentallm.sweep.store.sweep_folder import SweepFolder

RUN = re.compile(r"(?:run-)?0*([1-9]\d{0,6})")
"""Number or folder name of a run, counted from 1."""


@dataclass(frozen=True)
class Enqueued:
    """Run of a configuration that a person picked."""

    run: Run
    is_new: bool
    """False if the sweep had this run before."""


def enqueue(store: RunStore, definition: SweepDefinition, given: Mapping[str, Any]) -> Enqueued:
    """Have the next free worker try a configuration; `given` as in `read_configuration`.

    The run counts for `run_cap`, and the search learns from it. Calling this twice adds one run.

    Raises:
        SweepError: The configuration is not one of the sweep, or the sweep takes no more runs.
    """
    if definition.configurations:
        raise SweepError("this sweep repeats the best runs of another and takes no further ones")
    values, sweep = read_configuration(definition.space, given), definition.sweep
    known = {run.number for run in store.runs()}
    run = store.enqueue(values, parameters=sweep.parameters, limit=sweep.run_cap)
    if run is None:
        raise SweepError(
            f"the sweep has all {runs_text(len(store.runs()))} of its run_cap; raise run_cap in "
            "its file and give the file to fundamentallm sweep again"
        )
    return Enqueued(run, is_new=run.number not in known)


def find_run(store: RunStore, folder: SweepFolder, name: str) -> Run:
    """Return the run that a person names: `run-0004`, `4`, or the path of its folder.

    Raises:
        SweepError: The sweep has no such run.
    """
    path, runs = Path(name), store.runs()
    found = RUN.fullmatch(path.name)
    is_elsewhere = len(path.parts) > 1 and path.absolute().parent.resolve() != folder.path.resolve()
    number = int(found[1]) - 1 if found else -1
    if is_elsewhere or number not in runs.positions:
        raise SweepError(
            f"{name}: sweep {folder.name} has no such run; it has {runs_text(len(runs))}; give its "
            "number or its folder: 4 or run-0004"
        )
    return runs.numbered(number)


def stop(store: RunStore, run: Run) -> bool:
    """Have a run end early, with its score so far; return False if it is not in progress.

    Its worker saves it within seconds. A run that waits ends without being started. If the worker
    is gone, the next one ends the run. It is not retried.
    """
    return store.request_stop(run.last.id)


def pause(store: RunStore) -> None:
    """Keep every worker from starting a run; those in progress finish, and workers wait."""
    store.set_paused(is_paused=True)


def resume(store: RunStore) -> bool:
    """Let workers start runs again; return False if the sweep was not paused."""
    was_paused = store.is_paused()
    store.set_paused(is_paused=False)
    return was_paused
