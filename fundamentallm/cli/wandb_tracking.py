"""Whether a run is shown on W&B, and as what."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fundamentallm.cli.messages import say, warn
from fundamentallm.cli.train_request import Request
from fundamentallm.config.hyperparameters import Config
from fundamentallm.config.run_name import run_name
from fundamentallm.files.run_folder import RunFolder

if TYPE_CHECKING:
    from fundamentallm.trackers.wandb import WandbTracker


def wandb_tracker(
    folder: RunFolder, config: Config | None, request: Request
) -> WandbTracker | None:
    """The tracker for W&B; None if the user wants none or W&B cannot be used, which is said."""
    if request.no_wandb or os.environ.get("WANDB_MODE") == "disabled":
        return None
    wandb = None
    try:
        from fundamentallm.trackers import wandb

        reason = wandb.why_not()
    except (ImportError, AttributeError):  # not installed; a folder ./wandb then passes for it
        reason = (
            "wandb is not installed, so this run stays on this machine (--no-wandb hides this line)"
        )
    if wandb is None or reason is not None:
        if reason:
            say(f"fundamentallm: {reason}", err=True)
        return None
    if request.sweep is None and (foreign := wandb.why_not_there(folder)):
        warn(foreign)
        return None
    log_model = request.sweep is None if request.log_model is None else request.log_model
    if request.sweep is None and wandb.is_online():
        _say_what_is_sent(log_model)
    return wandb.WandbTracker(
        folder,
        name=run_name(config) if config else "",
        tags=[request.preset] if request.preset else [],
        swept=list(request.sweep.parameters) if request.sweep else None,
        log_model=log_model,
        in_sweep=request.sweep is not None,
    )


def _say_what_is_sent(log_model: bool) -> None:
    """Nobody who has logged in once, for another project, is to be surprised by it."""
    model = ", the model (best.pt); --no-log-model leaves out the model" if log_model else ""
    say(
        "fundamentallm: sent to W&B: metrics, settings, samples that begin like your text, this "
        f"output, facts about the machine{model}; --no-wandb keeps everything here",
        err=True,
    )
