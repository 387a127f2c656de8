"""How a run stands or has ended: the words of summary.json, of a sweep's storage and of reports."""

from __future__ import annotations

from enum import StrEnum


class RunStatus(StrEnum):
    """Status of a run, or of one attempt at it."""

    WAITING = "waiting"
    """Queued in a sweep's storage."""
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    """Stopped early by hyperband or W&B; what it reached is a result."""
    DIVERGED = "diverged"
    IMPOSSIBLE = "impossible"
    """Its configuration cannot be built."""
    INTERRUPTED = "interrupted"
    """Asked to stop; its checkpoint is saved."""
    FAILED = "failed"
    """Ended by an error of its own."""
    HUNG = "hung"
    """Took no step for far longer than its steps take."""
    OOM = "oom"
    """Ran out of memory."""
    DIED = "died"
    """Its process was killed from outside; summary.json says `failed`."""
    LOST = "lost"
    """Given up because its worker was not heard of."""
    REFUSED = "refused"
    """Its flags or values are wrong, so it never started."""
    UNFINISHED = "unfinished"
    """In progress or killed; reports say so of a run that has not recorded its end."""


RANKED = (RunStatus.DONE, RunStatus.STOPPED)
"""The score of such a run says something of its configuration."""
FINISHED = (RunStatus.DONE, RunStatus.DIVERGED, RunStatus.IMPOSSIBLE, RunStatus.STOPPED)
"""The run is over."""
FAULTS = (RunStatus.FAILED, RunStatus.HUNG, RunStatus.OOM, RunStatus.DIED)
"""The attempt ended by a fault."""
RETRYABLE = (*FAULTS, RunStatus.INTERRUPTED, RunStatus.LOST)
"""The attempt ended, and its run may be tried again."""
RECORDED = (
    *(RunStatus.RUNNING, *FINISHED, *FAULTS[:-1]),
    *(RunStatus.INTERRUPTED, RunStatus.REFUSED),
)
"""`status` of a summary.json."""


def is_stopped_early(status: str, stopped_by: object) -> bool:
    """Return whether hyperband or W&B interrupted a run; it then counts as `stopped`."""
    return status == RunStatus.INTERRUPTED and stopped_by in ("hyperband", "wandb")
