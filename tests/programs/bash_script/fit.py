"""Fit a number; the script beside it starts this."""

from __future__ import annotations

import sys

import wandb
from truth import note

lr, epochs = float(sys.argv[1]), int(sys.argv[2])
weight = 0.0
with wandb.init() as run:
    for step in range(epochs):
        weight -= lr * 2 * (weight - 3)
        row = {"loss": (weight - 3) ** 2}
        note(row, step)
        run.log(row)
