"""Train by a command two groups deep: `cli.py --quiet model train --lr 0.1`."""

from __future__ import annotations

import click
import wandb
from truth import note


@click.group()
@click.option("--quiet/--verbose", default=False)
def cli(quiet: bool) -> None:
    """Run the lab's tools."""


@cli.group()
def model() -> None:
    """Train and export models."""


@model.command()
@click.option("--lr", type=float, required=True)
@click.option("--epochs", type=click.IntRange(min=1), default=3)
@click.option("--schedule", type=click.Choice(["constant", "linear"]), default="constant")
def train(lr: float, epochs: int, schedule: str) -> None:
    """Train a model."""
    weight = 0.0
    with wandb.init(config={"lr": lr, "epochs": epochs, "schedule": schedule}) as run:
        for epoch in range(epochs):
            share = 1 - epoch / epochs if schedule == "linear" else 1.0
            weight -= lr * share * 2 * (weight - 3)
            row = {"loss": (weight - 3) ** 2, "lr_now": lr * share}
            note(row, epoch)
            run.log(row)


if __name__ == "__main__":
    cli()
