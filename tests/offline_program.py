"""Programs with the real W&B client, run offline in the environment of a sweep's run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def start(
    code: str,
    folder: Path,
    run_id: str,
    config: Mapping[str, Any] = {},
    *,
    python: str | Path = sys.executable,
    **environment: str,
) -> subprocess.Popen[bytes]:
    """Start Python code in `folder`, which also gets its log, as the run of a sweep.

    `python` is the interpreter of another environment (client_environments.py).
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    parameters = folder / f"wandb/sweep-s1/config-{run_id}.yaml"
    parameters.parent.mkdir(parents=True, exist_ok=True)
    values = {name: {"value": value} for name, value in config.items()}
    parameters.write_text(yaml.safe_dump(values), "utf-8")
    of_a_run = {
        "WANDB_SWEEP_ID": "s1",
        "WANDB_RUN_ID": run_id,
        "WANDB_SWEEP_PARAM_PATH": str(parameters),
        "WANDB_DIR": str(folder),
        "WANDB_MODE": "offline",
        "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1",
        "WANDB_ERROR_REPORTING": "false",
    }
    return subprocess.Popen(
        [python, "-c", code],
        cwd=folder,
        env=inherited | of_a_run | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        process_group=0,
    )


def run(
    code: str,
    folder: Path,
    run_id: str,
    config: Mapping[str, Any] = {},
    *,
    python: str | Path = sys.executable,
    **environment: str,
) -> None:
    """Run Python code to its end, which must be a success."""
    assert start(code, folder, run_id, config, python=python, **environment).wait() == 0
