"""Who is told of a sweep while it runs."""

from __future__ import annotations

from typing import Protocol

from fundamentallm.sweep.engine.job import Row
from fundamentallm.sweep.store.records import Run, RunIndex, Trial


class Observer(Protocol):
    """Told of a sweep as it happens."""

    def started(self, run: Run, *, going_on: bool) -> None:
        """An attempt begins here."""

    def row(self, run: Run, row: Row) -> None:
        """A run on this machine logged a row."""

    def ended(self, run: Run, ended: Trial) -> None:
        """An attempt on this machine is over."""

    def say(self, line: str) -> None:
        """Something that a person would want to know."""

    def look(self, runs: RunIndex, limit: int | None) -> None:
        """All runs of the sweep, on every machine, as they stand; and how many there will be."""
