"""Sweeps of runs that take a fraction of a second each, and what they leave behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna

FLAGS = ["--model-dim=16", "--num-layers=1", "--num-heads=2", "--max-seq-len=16", "--batch-size=4"]
STARTED: list[subprocess.Popen[str]] = []
GRID = """\
program: train.py
method: grid
metric: {{name: val_loss, goal: minimize}}
parameters:
  learning_rate: {{values: [{rates}]}}
  seed: {{values: [{seeds}]}}
  max_steps: {{value: {steps}}}
  eval_every: {{value: {every}}}
"""


def grid(rates: int = 2, seeds: int = 2, steps: int = 16, every: int = 8) -> str:
    """The text of a grid with `rates * seeds` points."""
    return GRID.format(
        rates=", ".join(str(round(0.001 * (i + 1), 4)) for i in range(rates)),
        seeds=", ".join(map(str, range(seeds))),
        steps=steps,
        every=every,
    )


def start(folder: Path, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """`fundamentallm ARGUMENTS` in the background, its own process group; train.py is there."""
    shutil.copy2(Path(__file__).parent.parent / "train.py", folder)
    words = [sys.executable, "-m", "fundamentallm", *map(str, arguments)]
    process = subprocess.Popen(
        words, cwd=folder, env={**os.environ, **environment}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    STARTED.append(process)
    return process


def end_what_is_left() -> None:
    """Kill what a test that failed left running, so that the next test fails by its own fault."""
    while STARTED:
        process = STARTED.pop()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """What `condition` gives once that is true; the test fails if it never is."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)
    return found


def trials(folder: Path, name: str = "") -> list[optuna.trial.FrozenTrial]:
    """Every trial in the storage beside the runs of the sweep in `folder`, made as `name`."""
    study = optuna.load_study(
        study_name=name or folder.name, storage=f"sqlite:///{folder}/study.db"
    )
    return study.get_trials(deepcopy=False)


def summaries(folder: Path) -> dict[str, dict[str, Any]]:
    """summary.json of every run, by the name of its folder."""
    return {
        path.parent.name: json.loads(path.read_text())
        for path in sorted(folder.glob("run-*/summary.json"))
    }


def metric_rows(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def processes(needle: str) -> list[int]:
    """Processes whose command line or current folder contains `needle`."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            folder = os.readlink(path / "cwd")
        except OSError:
            continue
        if needle in command or needle in folder:
            found.append(int(path.name))
    return found


def kill(pid: int) -> None:
    """SIGKILL, if it is there still."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def pause(process: subprocess.Popen[str], folder: Path) -> None:
    """SIGSTOP, at a moment when the process does not hold the lock of the sweep's database."""
    while True:
        os.kill(process.pid, signal.SIGSTOP)
        database = sqlite3.connect(folder / "study.db", timeout=1, isolation_level=None)
        try:
            database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.05)
        else:
            return
        finally:
            database.close()
