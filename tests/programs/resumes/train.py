"""Save state in the run's folder, and resume from it after a kill."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import wandb
from truth import note

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, required=True)
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--seconds", type=float, default=0.0, help="seconds of a step")
args = parser.parse_args()
checkpoint = Path(os.environ["FUNDAMENTALLM_RUN_DIR"], "state.json")
state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"step": 0, "weight": 0.0}
with wandb.init(config=args) as run:
    for step in range(state["step"], args.steps):
        time.sleep(args.seconds)
        state["weight"] -= args.lr * 2 * (state["weight"] - 3)
        row = {"loss": (state["weight"] - 3) ** 2}
        note(row, step)
        run.log(row, step=step, commit=True)
        part = checkpoint.with_suffix(".part")
        part.write_text(json.dumps({**state, "step": step + 1}))
        part.rename(checkpoint)
