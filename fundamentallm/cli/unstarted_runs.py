"""How a run of a sweep is written down that never began to train."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from fundamentallm import exit_codes
from fundamentallm.cli.messages import say, warn
from fundamentallm.cli.train_request import Request
from fundamentallm.cli.wandb_tracking import wandb_tracker
from fundamentallm.files.run_folder import RunFolderError
from fundamentallm.metrics import score_text
from fundamentallm.status import RunStatus


def score_impossible(
    request: Request, settings: Mapping[str, Any], data: str | None, reason: str
) -> int:
    """Give a point that cannot be trained the score of a uniform guess; the exit code."""
    from fundamentallm.data.text import read_text
    from fundamentallm.training.impossible import summary_of_impossible

    text = read_text(data)
    summary = summary_of_impossible(settings, text, reason)
    guess = score_text(summary["val_loss"])
    warn(f"impossible: {reason}; scored as a uniform guess, val_loss {guess}")
    _write_down(request, summary, {**settings, "data": text.name})
    return exit_codes.of_run(RunStatus.IMPOSSIBLE, reason, in_sweep=True)


def record_unstarted(request: Request, status: RunStatus, reason: str) -> None:
    """`refused` (bad input) or `oom`: show it where people look for the run.

    A run that has trained before, and was handed out again, keeps its files as they are; one that
    goes on in another process is left alone.
    """
    with suppress(RunFolderError):  # what is refused may be the very folder
        _write_down(request, {"status": status, "stopped_by": reason}, {})


def _write_down(
    request: Request, summary: Mapping[str, object], settings: Mapping[str, object]
) -> None:
    """Tell every tracker of a run that is over; its folder only if nothing is in it yet."""
    from fundamentallm.trackers.folder import FolderTracker
    from fundamentallm.training.run import record_untrained

    folder = request.folder
    assert folder is not None
    folder.create()
    with folder.held():
        trained = folder.last.exists() or folder.best.exists()
        wandb = wandb_tracker(folder, None, request)
        trackers = [] if trained else [FolderTracker(folder)]
        # Above step 0, W&B receives the rows that it lacks from the folder.
        record_untrained(
            [*trackers, *([wandb] if wandb else [])], settings, summary, step=1 if trained else 0
        )
    if wandb is not None and wandb.undelivered:
        say(wandb.undelivered, err=True)
