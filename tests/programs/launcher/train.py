"""Train in several processes, of which the first logs."""

from __future__ import annotations

import argparse
import os

import wandb
from truth import note

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, required=True)
parser.add_argument("--steps", type=int, default=3)
args = parser.parse_args()
is_main = os.environ["RANK"] == "0"
run = wandb.init(config=args) if is_main else None
weight = 0.0
for step in range(args.steps):
    weight -= args.lr * 2 * (weight - 3)
    if run is not None:
        row = {"loss": (weight - 3) ** 2, "world_size": int(os.environ["WORLD_SIZE"])}
        note(row, step)
        run.log(row)
