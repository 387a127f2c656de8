"""Tracker of a run on W&B, if the run is sent there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fundamentallm.cli.messages import show, warn
from fundamentallm.cli.train_request import TrainRequest
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.trackers.base import TrackerError
from fundamentallm.trackers.installed import MISSING, load_tracker

if TYPE_CHECKING:
    from fundamentallm.trackers.wandb import WandbTracker


def wandb_tracker(folder: RunFolder, request: TrainRequest) -> WandbTracker | None:
    """Return the tracker for W&B; None without consent or with a message if W&B is unusable.

    Raises:
        TrackerError: W&B is unusable, and the run is one of its agent's.
    """
    if request.no_wandb or os.environ.get("WANDB_MODE") == "disabled":
        return None
    wandb = load_tracker()
    reason = wandb.why_unusable() if wandb is not None else MISSING
    if wandb is None or reason is not None:
        if reason and request.sweep is not None:
            raise TrackerError(
                f"{reason}, so this run would train for nothing; run the sweep without W&B with "
                "fundamentallm sweep"
            )
        if reason:
            line = f"{reason}, so this run stays on this machine (--no-wandb hides this line)"
            show(f"fundamentallm: {line}", err=True)
        return None
    if request.sweep is None and (foreign := wandb.why_not_trusted(folder)):
        warn(foreign)
        return None
    log_model = request.sweep is None if request.log_model is None else request.log_model
    if request.sweep is None and wandb.is_online():
        _show_what_is_sent(log_model)
    options = wandb.RunOptions(
        tags=[request.preset] if request.preset else [],
        swept=request.sweep.parameters if request.sweep else None,
        log_model=log_model,
        in_sweep=request.sweep is not None,
    )
    return wandb.WandbTracker(folder, options, required=request.sweep is not None)


def _show_what_is_sent(log_model: bool) -> None:
    """Show what is sent, also to users who logged in for another project."""
    model = ", the model (best.pt); --no-log-model leaves out the model" if log_model else ""
    show(
        "fundamentallm: sent to W&B: metrics, settings, samples that begin like your text, this "
        f"output, facts about the machine{model}; --no-wandb keeps everything here",
        err=True,
    )
