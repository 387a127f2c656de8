"""Sweeps whose runs take a fraction of a second, and readers of their results."""

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
    """Return the text of a grid sweep of `rates * seeds` runs."""
    return GRID.format(
        rates=", ".join(str(round(0.001 * (i + 1), 4)) for i in range(rates)),
        seeds=", ".join(map(str, range(seeds))),
        steps=steps,
        every=every,
    )


def start(folder: Path, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start `fundamentallm ARGUMENTS` in its own process group, in a folder with train.py."""
    shutil.copy2(Path(__file__).parent.parent / "train.py", folder)
    words = [sys.executable, "-m", "fundamentallm", *map(str, arguments)]
    process = subprocess.Popen(
        words, cwd=folder, env={**os.environ, **environment}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    STARTED.append(process)
    return process


def kill_leftovers() -> None:
    """Kill what a failed test left running, so that it cannot fail the next test."""
    while STARTED:
        process = STARTED.pop()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Return the value of `condition` once it is true; fail the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition never became true"
        time.sleep(0.02)
    return value


def trials(folder: Path, name: str = "") -> list[optuna.trial.FrozenTrial]:
    """Return every trial in study.db of the sweep folder, whose study is called `name`."""
    study = optuna.load_study(
        study_name=name or folder.name, storage=f"sqlite:///{folder}/study.db"
    )
    return study.get_trials(deepcopy=False)


def summaries(folder: Path) -> dict[str, dict[str, Any]]:
    """Return summary.json of every run by the name of the run's folder."""
    return {
        path.parent.name: json.loads(path.read_text())
        for path in sorted(folder.glob("run-*/summary.json"))
    }


def metric_rows(run: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def processes(needle: str) -> list[int]:
    """Return the processes whose command line or current folder contains `needle`."""
    pids: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            folder = os.readlink(path / "cwd")
        except OSError:
            continue
        if needle in command or needle in folder:
            pids.append(int(path.name))
    return pids


def kill(pid: int) -> None:
    """Send SIGKILL if the process still exists."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def pause(process: subprocess.Popen[str], folder: Path) -> None:
    """Send SIGSTOP at a moment when the process holds no lock on the sweep's database."""
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
