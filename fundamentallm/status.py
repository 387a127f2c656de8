"""Status of a run, as stored in summary.json and a sweep's storage and shown in reports."""

from __future__ import annotations

from enum import StrEnum


class RunStatus(StrEnum):
    """Status of a run, or of one trial of it."""

    WAITING = "waiting"
    """Queued in a sweep's storage."""
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    """Stopped early by hyperband, W&B or a person; its score so far is a result."""
    DIVERGED = "diverged"
    IMPOSSIBLE = "impossible"
    """Its configuration cannot be built."""
    INTERRUPTED = "interrupted"
    """Asked to stop; its checkpoint is saved."""
    FAILED = "failed"
    """Ended by an error."""
    HUNG = "hung"
    """Took no step for far longer than a step usually takes."""
    OOM = "oom"
    """Ran out of memory."""
    DIED = "died"
    """Its process was killed from outside; summary.json says `failed`."""
    LOST = "lost"
    """Given up because its worker stopped responding."""
    REFUSED = "refused"
    """Not started, since its flags or values are wrong."""
    UNFINISHED = "unfinished"
    """In progress or killed: shown for a run that has not recorded its end."""


RANKED = (RunStatus.DONE, RunStatus.STOPPED)
"""Statuses with a score that counts for the configuration."""
FINISHED = (RunStatus.DONE, RunStatus.DIVERGED, RunStatus.IMPOSSIBLE, RunStatus.STOPPED)
"""Statuses of a run that is over."""
FAULTS = (RunStatus.FAILED, RunStatus.HUNG, RunStatus.OOM, RunStatus.DIED)
"""Statuses of a trial that ended by a fault."""
OVER = (*FINISHED, *FAULTS)
"""Statuses of a run that is over, unless it is retried."""
RETRYABLE = (*FAULTS, RunStatus.INTERRUPTED, RunStatus.LOST)
"""Statuses of a trial whose run may be retried."""
IN_PROGRESS = (RunStatus.RUNNING, RunStatus.UNFINISHED)
"""Statuses shown for a run without an end."""
RECORDED = (
    *(RunStatus.RUNNING, *FINISHED, *FAULTS[:-1]),
    *(RunStatus.INTERRUPTED, RunStatus.REFUSED),
)
"""Statuses in summary.json."""


HAND = "hand"
"""Reason of a run's end that a person asked for."""


def is_stopped_early(status: str, stopped_by: object) -> bool:
    """Return whether hyperband, W&B or a person ended a run early; it then counts as `stopped`."""
    return status == RunStatus.INTERRUPTED and stopped_by in ("hyperband", "wandb", HAND)
