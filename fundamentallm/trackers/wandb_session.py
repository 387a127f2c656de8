"""State of W&B's client in this process, for functions that call `wandb.init` themselves."""

from __future__ import annotations

import wandb


def active_run() -> str:
    """Return the name or id of the run that is active in this process; "" if there is none."""
    return "" if wandb.run is None else str(wandb.run.name or wandb.run.id)


def finish(exit_code: int) -> None:
    """Finish the active run, if there is one."""
    wandb.finish(exit_code=exit_code)


def end() -> None:
    """End the client's session: logs are complete, and `wandb.init` reads the environment anew."""
    wandb.teardown()
