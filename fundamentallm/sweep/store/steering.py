"""Steering of a sweep while it runs: from any terminal or machine that reaches its storage.

Nothing here talks to a worker. Every worker reads the storage every two seconds, and a new one
finds there what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fundamentallm.metrics import runs_text
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.search.hand_picked import read_configuration
from fundamentallm.sweep.store.definition import SweepDefinition
from fundamentallm.sweep.store.records import Run
from fundamentallm.sweep.store.run_store import RunStore


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
