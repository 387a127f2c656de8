"""Log as Lightning's logger does: `val/loss` over its own step, and NaN before training."""

from __future__ import annotations

import argparse
import math

import wandb
from truth import note


class Logger:
    """Counts W&B's steps, one a call, and sends the trainer's step as a metric."""

    def __init__(self, run: wandb.Run) -> None:
        self.run, self.calls = run, 0
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        row = {**metrics, "trainer/global_step": step}
        note(row, self.calls)
        self.calls += 1
        self.run.log(row)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model.lr", dest="lr", type=float, default=0.1)
    parser.add_argument("--trainer.max_epochs", dest="max_epochs", type=int, default=3)
    args = parser.parse_args()
    run = wandb.init(project="lightning_logs", dir=None)
    logger = Logger(run)
    logger.log_metrics({"val/loss": math.nan, "epoch": 0}, 0)
    weight, step = 0.0, 0
    for epoch in range(args.max_epochs):
        for _ in range(4):
            step += 1
            weight -= args.lr * 2 * (weight - 3)
            if step % 2 == 0:
                logger.log_metrics({"train/loss": (weight - 3) ** 2, "epoch": epoch}, step)
        logger.log_metrics({"val/loss": (weight - 3.1) ** 2, "epoch": epoch}, step)
    run.finish()


if __name__ == "__main__":
    main()
