"""Observer of a sweep: receives its progress, to display it."""

from __future__ import annotations

from typing import Protocol

from fundamentallm.sweep.engine.job import Row
from fundamentallm.sweep.store.records import Run, RunIndex, Trial


class Observer(Protocol):
    """Receives the progress of a sweep as it happens."""

    def started(self, run: Run, *, resumes: bool) -> None:
        """Start of a trial on this machine."""

    def row(self, run: Run, row: Row) -> None:
        """Row of metrics from a run on this machine."""

    def ended(self, run: Run, ended: Trial) -> None:
        """End of a trial on this machine."""

    def notify(self, line: str) -> None:
        """Message for the person who watches."""

    def update(self, runs: RunIndex, limit: int | None, *, is_paused: bool = False) -> None:
        """State of all runs on every machine.

        Args:
            runs: All runs.
            limit: How many there will be, if known.
            is_paused: Whether a person has paused the sweep.
        """
