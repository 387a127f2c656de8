"""Set the summary and log nothing."""

from __future__ import annotations

import wandb

run = wandb.init()
error = abs(run.config.lr - 0.1)
run.summary["score"] = 1 - error
run.summary["final"] = {"error": error}
run.summary["best_epoch"] = run.config["epochs"] - 1
run.finish()
