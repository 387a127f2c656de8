"""Print metrics as JSON lines among other output, and never use W&B."""

from __future__ import annotations

import argparse
import json
import sys
import time

from truth import note

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, required=True)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--seconds", type=float, default=0.0, help="seconds of an epoch")
args = parser.parse_args()
print("loading data ...")
print("{not JSON}", file=sys.stderr)
weight = args.seed / 10
for epoch in range(args.epochs):
    time.sleep(args.seconds)
    weight -= args.lr * 2 * (weight - 3)
    row = {"loss": (weight - 3) ** 2, "eval": {"weight": weight}}
    note(row, epoch)
    print(f"epoch {epoch}")
    print(json.dumps({"step": epoch, **row}))
print("saved")
