"""Read every value from wandb.config, some of them nested, and log nested metrics."""

from __future__ import annotations

import wandb
from truth import note

run = wandb.init()
config = run.config
optimizer = config.optimizer
weight = config["start"]
momentum = 0.0
for step in range(5):
    momentum = optimizer["beta"] * momentum + 2 * (weight - 3)
    weight -= optimizer["lr"] * momentum
    row = {"eval": {"loss": (weight - 3) ** 2, "weight": weight}, "note": "not a number"}
    note(row, step)
    wandb.log(row)
wandb.finish()
