"""Records of sweep runs that never started training."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from fundamentallm import exit_codes
from fundamentallm.cli.messages import show, warn
from fundamentallm.cli.train_request import TrainRequest
from fundamentallm.cli.wandb_tracking import wandb_tracker
from fundamentallm.files.run_folder import RunFolderError
from fundamentallm.metrics import score_text
from fundamentallm.status import RunStatus
from fundamentallm.trackers.base import TrackerError


def score_impossible(
    request: TrainRequest, settings: Mapping[str, Any], data: str | None, reason: str
) -> int:
    """Score an impossible configuration as a uniform guess; return the exit code."""
    from fundamentallm.data.text import read_text
    from fundamentallm.training.impossible import summary_of_impossible

    text = read_text(data)
    summary = summary_of_impossible(settings, text, reason)
    guess = score_text(summary["val_loss"])
    warn(f"impossible: {reason}; scored as a uniform guess, val_loss {guess}")
    _record(request, summary, {**settings, "data": text.name})
    return exit_codes.of_run(RunStatus.IMPOSSIBLE, reason, in_sweep=True)


def record_unstarted(
    request: TrainRequest, status: RunStatus, reason: str, *, on_wandb: bool = True
) -> None:
    """Record `refused` (bad input) or `oom` where people look for the run.

    A requeued run that has trained before keeps its files; one that another process runs is left
    alone.

    Args:
        request: Flags of the run.
        status: How it ended.
        reason: Why, in one line.
        on_wandb: Whether W&B's client can record it too.
    """
    with suppress(RunFolderError, TrackerError):  # the folder itself may be refused
        _record(request, {"status": status, "stopped_by": reason}, {}, on_wandb=on_wandb)


def _record(
    request: TrainRequest,
    summary: Mapping[str, object],
    settings: Mapping[str, object],
    *,
    on_wandb: bool = True,
) -> None:
    """Report an ended run to every tracker; to its folder only if it never trained."""
    from fundamentallm.trackers.folder import FolderTracker
    from fundamentallm.training.run import record_untrained

    folder = request.folder
    assert folder is not None
    folder.create()
    with folder.held():
        trained = folder.last.exists() or folder.best.exists()
        wandb = wandb_tracker(folder, request) if on_wandb else None
        trackers = [] if trained else [FolderTracker(folder)]
        # Above step 0, W&B receives the rows that it lacks from the folder.
        record_untrained(
            [*trackers, *([wandb] if wandb else [])], settings, summary, step=1 if trained else 0
        )
    if wandb is not None and wandb.undelivered:
        show(wandb.undelivered, err=True)
