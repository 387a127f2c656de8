"""`--keep` of `sweep` and `agent`: what it removes while runs end, and what is said at the end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click

from fundamentallm.cli.messages import display_path, show
from fundamentallm.files.run_folder import TUNING
from fundamentallm.metrics import size_text
from fundamentallm.sweep.engine.job import Row
from fundamentallm.sweep.engine.observer import Observer
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.keep import KEPT_CONFIGURATIONS, Keep, Keeper, removable
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.records import Run, RunIndex, Trial
from fundamentallm.sweep.store.sweep_folder import SweepFolder

MOST_LISTED = 8
"""Most names of runs in one line."""
LEAST_TOLD = 1_000_000
"""Bytes below which nothing is said of what could be freed."""


def keep_option(command: Any) -> Any:
    """Add `--keep`."""
    return click.option(
        "--keep",
        type=click.Choice([str(each) for each in Keep]),
        default=str(Keep.ALL),
        help=f"Keep checkpoints of the {KEPT_CONFIGURATIONS} best configurations, also last.pt of "
        "every run, or all.  [default: all]",
    )(command)


class KeepingObserver:
    """An `Observer` that passes everything on to another, and removes what is not kept."""

    def __init__(self, observer: Observer, keeper: Keeper) -> None:
        self.observer, self.keeper = observer, keeper

    def started(self, run: Run, *, resumes: bool) -> None:
        """Pass it on."""
        self.observer.started(run, resumes=resumes)

    def row(self, run: Run, row: Row) -> None:
        """Pass it on."""
        self.observer.row(run, row)

    def ended(self, run: Run, ended: Trial) -> None:
        """Pass it on."""
        self.observer.ended(run, ended)

    def notify(self, line: str) -> None:
        """Pass it on."""
        self.observer.notify(line)

    def update(self, runs: RunIndex, limit: int | None, *, is_paused: bool = False) -> None:
        """Pass it on, and remove checkpoints if a run has finished."""
        self.observer.update(runs, limit, is_paused=is_paused)
        self.keeper.remove()


def check_not_of_tuning(folder: SweepFolder) -> None:
    """Check that no tuning continues the runs of the sweep.

    Raises:
        SweepError: It is part of a tuning.
    """
    tuning = folder.path.parent / TUNING
    if os.path.lexists(tuning):
        raise SweepError(
            f"{display_path(folder.path)}: part of a tuning, which continues from its runs; if it "
            f"is over, keep {display_path(tuning.parent / 'best.pt')} and remove the rest by hand"
        )


def kept_text(names: Sequence[str]) -> str:
    """Return the names of runs, of many only the first."""
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more if names else "no run, for none has a score"


def show_what_could_be_freed(folder: SweepFolder, runs: RunIndex, space: SearchSpace) -> None:
    """Print what `--keep best` would free, if that is worth a line."""
    found = removable(folder, runs, space, Keep.BEST)
    freed = sum(sum(each.sizes.values()) for each in found)
    if freed >= LEAST_TOLD:
        show(
            f"all checkpoints are kept; fundamentallm clean {display_path(folder.path)} would free "
            f"{size_text(freed)} (sweep --keep best does so at once)"
        )
