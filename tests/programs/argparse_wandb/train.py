"""Fit a number by gradient descent: flags by argparse, which are also W&B's config."""

from __future__ import annotations

import argparse

import wandb
from truth import note


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--nesterov", type=lambda text: text == "True", default=False)
    args = parser.parse_args()
    weight, velocity = 0.0, 0.0
    with wandb.init(config=vars(args)) as run:
        for epoch in range(args.epochs):
            gradient = 2 * (weight - 3)
            velocity = 0.5 * velocity - args.lr * gradient
            weight += 0.5 * velocity - args.lr * gradient if args.nesterov else velocity
            row = {"epoch": epoch, "loss": (weight - 3) ** 2}
            note(row, epoch)
            run.log(row)
            print(f"epoch {epoch}: loss {row['loss']:.4f}")


if __name__ == "__main__":
    main()
