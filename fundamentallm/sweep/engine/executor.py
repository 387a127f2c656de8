"""Executor of trials, as the engine sees it: starts a trial for each job, and waits for news."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from fundamentallm.sweep.engine.job import Outcome, Row


class StartedTrial(Protocol):
    """A trial that an executor started."""

    last_message_at: float
    """Time of `time.monotonic` at its last sign of life."""

    def messages(self) -> list[Row | Outcome]:
        """Return the messages since the last call; the last one of a trial is an `Outcome`."""
        ...

    def stop(self, reason: str) -> None:
        """Ask the trial to save and end."""

    def kill(self) -> None:
        """End the trial at once."""

    def memory_gb(self) -> float:
        """Return its peak memory; 0 if unknown."""
        ...

    def close(self) -> None:
        """Release what the trial holds, once it has ended."""


class Executor(Protocol):
    """Starts the trials of a worker."""

    # Any: a job and a trial that another executor made are never passed to this one.
    def start(self, job: Any) -> StartedTrial:
        """Start a trial.

        Raises:
            SystemLimitError: The system allows no more processes or files.
        """
        ...

    def wait(self, trials: Sequence[Any], seconds: float) -> None:
        """Wait until a trial sends a message, at most `seconds`."""
