"""Writes folders of runs and sweeps without training."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from simulated_sweeps import SimulatedSweep

__all__ = ["FOREIGN", "SWEEP", "SimulatedSweep", "write_foreign_run", "write_run", "write_sweep"]

SWEEP = """\
program: train.py
method: grid
metric: {name: val_loss, goal: minimize}
parameters:
  learning_rate: {values: [0.0001, 0.001, 0.01]}
  seed: {values: [0, 1]}
  max_steps: {value: 100}
"""


FOREIGN = """\
program: other.py
method: random
run_cap: 12
metric: {name: eval/acc, goal: maximize}
early_terminate: {type: hyperband, min_iter: 2}
command: ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"]
parameters:
  optimizer: {parameters: {lr: {distribution: log_uniform_values, min: 0.0001, max: 0.1}}}
  data: {values: [small, large]}
  batch_size: {value: "32"}
  random_seed: {values: [1, 2]}
"""
"""Sweep of another program, with names that mean something else to our trainer."""


def write_foreign_run(
    folder: Path,
    config: Mapping[str, Any],
    rows: Sequence[Mapping[str, float]] = (),
    *,
    summary: Mapping[str, Any] | None = None,
    status: str = "done",
) -> Path:
    """Write the folder of another program's run that logged these rows."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = [{"step": index, **row} for index, row in enumerate(rows)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
    lines = [f"{name}: {json.dumps(value)}\n" for name, value in config.items()]
    (folder / "config.yaml").write_text("# Written by fundamentallm\n" + "".join(lines))
    last = steps[-1] if steps else {"step": 0}
    content = {
        "status": status, "stopped_by": "", "step": last["step"], "seconds": 1.0, "exit_code": 0,
        "program": "python other.py", "summary": {**last, **(summary or {})},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(content))
    return folder


def write_run(
    folder: Path,
    settings: Mapping[str, Any],
    val: Sequence[float],
    *,
    train: Sequence[float] | None = None,
    norm: float = 0.5,
    status: str = "done",
    every: int = 10,
) -> Path:
    """Write the folder of a run with these validation losses."""
    folder.mkdir(parents=True, exist_ok=True)
    losses = train if train is not None else [value - 0.1 for value in val]
    rows = [
        {"step": (i + 1) * every, "train_loss": t, "val_loss": v, "optim/grad_norm": norm}
        for i, (t, v) in enumerate(zip(losses, val, strict=True))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(yaml.safe_dump({"gradient_clip": 1.0, **settings}))
    best = min(rows, key=lambda row: row["val_loss"], default={"step": 0, "val_loss": 4.0})
    summary = {
        "status": status, "step": len(rows) * every, "total_steps": len(rows) * every,
        "best_step": best["step"], "best_val_loss": best["val_loss"], "seconds": 1.0,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_sweep(folder: Path, scores: Mapping[float, Sequence[float]], text: str = SWEEP) -> Path:
    """Write a sweep over learning rate and seed; `scores` maps each rate to a loss per seed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.yaml").write_text(text)
    number = 0
    for rate, losses in scores.items():
        for seed, loss in enumerate(losses):
            number += 1
            val = [4.0 - (4.0 - loss) * min(1, i / 3) for i in range(1, 9)]
            write_run(folder / f"run-{number:04}", {"learning_rate": rate, "seed": seed}, val)
    return folder
