"""Log once, at the end, a score to maximize."""

from __future__ import annotations

import argparse

import wandb
from truth import note

parser = argparse.ArgumentParser()
parser.add_argument("--depth", type=int, required=True)
parser.add_argument("--rate", type=float, required=True)
args = parser.parse_args()
wandb.init(config=args)
accuracy = 1 / (1 + abs(args.depth - 4) + abs(args.rate - 0.1))
row = {"accuracy": accuracy, "error": 1 - accuracy}
note(row, 0)
wandb.log(row)
