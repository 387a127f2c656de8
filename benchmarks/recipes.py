"""Validation loss of a recipe after a fixed time on one core, on both halves of the val text.

    python benchmarks/recipes.py --text tinyshakespeare.txt --seconds 60 --seed 1 num_heads=2

The time is processor time, so that other programs matter little; some steps are timed first to fit
the schedule to it. Choose by `val_first` and report `val_second`: a recipe looks too good on the
text on which it was chosen. docs/dev/experiments.md has the results.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import click
import torch

from fundamentallm import Config
from fundamentallm.config.presets import PRESETS
from fundamentallm.data.dataset import Dataset, prepare, training_batch
from fundamentallm.data.text import read_text
from fundamentallm.machine.cores_and_memory import keep_freed_memory
from fundamentallm.training.evaluate import score
from fundamentallm.training.plan import Plan
from fundamentallm.training.train_step import TrainStep

CPU = torch.device("cpu")
TIMED = 15  # steps, after as many untimed ones


def count_steps(config: Config, data: Dataset, seconds: float) -> int:
    """Return the number of steps that one core takes in `seconds`."""
    train_step = TrainStep(len(data.vocabulary), config, CPU)
    for step in range(2 * TIMED):
        if step == TIMED:
            start = time.process_time()
        train_step.step(training_batch(data.train, config, step), config.learning_rate)
    return max(1, int(seconds / ((time.process_time() - start) / TIMED)))


def train_for(config: Config, data: Dataset, seconds: float) -> tuple[TrainStep, Config, float]:
    """Train for about `seconds` of processor time, with a schedule that ends then."""
    keep_freed_memory()  # as `fundamentallm train` does
    config = replace(config, max_steps=count_steps(config, data, seconds), epochs=1_000_000)
    plan = Plan(config, data.batches_per_epoch(config))
    train_step = TrainStep(len(data.vocabulary), config, CPU)
    start = time.process_time()
    for step in range(plan.total_steps):
        train_step.step(training_batch(data.train, config, step), plan.learning_rate(step))
    return train_step, config, time.process_time() - start


def score_halves(train_step: TrainStep, data: Dataset) -> tuple[float, float]:
    """Return the loss on the first and on the second half of the validation text."""
    train_step.model.eval()
    middle = len(data.val) // 2
    first, second = (
        score(train_step.model, part, len(part), train_step.config, CPU).loss
        for part in (data.val[:middle], data.val[middle:])
    )
    return first, second


@click.command()
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--seconds", default=60.0, show_default=True, help="Processor time of training.")
@click.option("--seed", default=0, show_default=True)
@click.option("--preset", default="fast", show_default=True)
@click.argument("settings", nargs=-1, metavar="[NAME=VALUE...]")
def main(text: Path, seconds: float, seed: int, preset: str, settings: tuple[str, ...]) -> None:
    """Print one line of JSON."""
    torch.set_num_threads(1)
    changed = dict(setting.split("=", 1) for setting in settings)
    values = {**PRESETS[preset].values, "max_steps": 0, "seed": seed, **changed}
    config = Config(**values)  # pyright: ignore
    data = prepare(read_text(text), config)
    train_step, used, elapsed = train_for(config, data, seconds)
    first, second = score_halves(train_step, data)
    row = {"settings": changed, "seed": seed, "steps": used.max_steps, "seconds": round(elapsed, 1)}
    click.echo(json.dumps(row | {"val_first": round(first, 4), "val_second": round(second, 4)}))


if __name__ == "__main__":
    main()
