"""Check that WANDB_RUN_ID does not mix a new run with another that is on W&B."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fundamentallm.cli.train_request import TrainRequest
from fundamentallm.config.fields import ConfigError
from fundamentallm.config.hyperparameters import HYPERPARAMETERS, Config
from fundamentallm.config.parsing import OWN_GROUP
from fundamentallm.trackers.installed import load_tracker
from fundamentallm.trackers.wandb_api import WandbApiError
from fundamentallm.trackers.wandb_identity import stored_place
from fundamentallm.training.checkpoint import MAY_CHANGE

CHANGES_SHOWN = 3


def check_run_id(request: TrainRequest, config: Config, sha256: str) -> None:
    """Check that W&B may take this run under the id in WANDB_RUN_ID, as WANDB_RESUME says.

    Asks W&B only if WANDB_RUN_ID is set.

    Args:
        request: Flags of the run.
        config: Hyperparameters of the run.
        sha256: Hash of the run's text.

    Raises:
        ConfigError: W&B has a run with this id and other settings, or WANDB_RESUME forbids it.
    """
    run_id, resume = (os.environ.get(name, "") for name in ("WANDB_RUN_ID", "WANDB_RESUME"))
    mode = os.environ.get("WANDB_MODE", "online")
    if not run_id or request.no_wandb or request.sweep is not None or mode != "online":
        return
    wandb = load_tracker()
    if wandb is None or wandb.why_unusable() is not None:
        return
    try:
        theirs = wandb.config_on_wandb(run_id)
    except WandbApiError:
        return  # the run will be offline
    where = f"WANDB_RUN_ID={run_id}"
    if theirs is None:
        if resume == "must":
            raise ConfigError(
                f"{where}: W&B has no run with this id, and WANDB_RESUME=must asks for one; unset "
                "WANDB_RESUME to start it"
            )
        return
    if resume == "never":
        raise ConfigError(
            f"{where}: W&B has a run with this id, and WANDB_RESUME=never forbids to resume it; "
            "set another id"
        )
    if request.resumes and request.folder and stored_place(request.folder).run_id == run_id:
        return
    if changes := _changes(theirs, config, sha256):
        raise ConfigError(
            f"{where}: W&B has a run with this id and other settings ({changes}); set another id, "
            "or resume that run in its own folder with --output-dir DIR --resume"
        )


def _changes(theirs: Mapping[str, Any], config: Config, sha256: str) -> str:
    """Return the first settings that differ, in words; "" if none does."""
    compared = [name for name in HYPERPARAMETERS if name not in MAY_CHANGE and name in theirs]
    if not compared:
        return "it is no run of fundamentallm"
    changed = [
        f"{name} {theirs[name]}, here {ours}"
        for name in compared
        if theirs[name] != (ours := getattr(config, name))
    ]
    own = theirs.get(OWN_GROUP)
    facts = {**theirs, **own} if isinstance(own, Mapping) else theirs
    if facts.get("data_sha256", sha256) != sha256:
        changed.insert(0, "another text")
    more = [f"and {len(changed) - CHANGES_SHOWN} more"] if len(changed) > CHANGES_SHOWN else []
    return "; ".join([*changed[:CHANGES_SHOWN], *more])
