"""Environment of a program: the variables of W&B's agent, and some of ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

RUN_DIR = "FUNDAMENTALLM_RUN_DIR"
"""Variable with the folder of a run in which the program may keep files, e.g. its checkpoint."""
OWN_FILES = "files"
"""Name of that folder in the run's folder, where no name clashes with a file of ours."""


def run_environment(
    folder: Path, run_id: str, parameters_file: Path, *, threads: int, restarts: bool
) -> dict[str, str]:
    """Return the variables of one run.

    Args:
        folder: Absolute path of the run's folder.
        run_id: Id of the run for W&B's client.
        parameters_file: File of the run's values, relative to `folder`.
        threads: Threads of each run.
        restarts: Whether an earlier attempt did not finish.
    """
    variables = {
        "WANDB_RUN_ID": run_id,
        "WANDB_DIR": str(folder),
        "WANDB_SWEEP_PARAM_PATH": str(folder / parameters_file),
        RUN_DIR: str(folder / OWN_FILES),
    }
    if restarts:
        variables["WANDB_RESUME"] = "allow"
    return variables | process_environment(threads)


def process_environment(threads: int) -> dict[str, str]:
    """Return the variables for Python and its libraries; a user's own count more."""
    variables = {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    return {name: os.environ.get(name, value) for name, value in variables.items()}


def sweep_environment(
    name: str, *, mode: str, entity: str, project: str, sweep_id: str
) -> Mapping[str, str]:
    """Return the variables for W&B's client that all runs of a sweep share.

    Args:
        name: Name of the sweep, the group of its runs unless the user has set another.
        mode: `online` or `offline`.
        entity: User or team on W&B; or "".
        project: Project on W&B; or "".
        sweep_id: Id of the sweep; or "".
    """
    variables = {
        "WANDB_MODE": mode,
        "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1",
        "WANDB_RUN_GROUP": os.environ.get("WANDB_RUN_GROUP", name),
    }
    names = {"WANDB_ENTITY": entity, "WANDB_PROJECT": project, "WANDB_SWEEP_ID": sweep_id}
    return variables | {name: value for name, value in names.items() if value}
