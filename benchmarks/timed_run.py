"""Trains as `train.py` for a given time, with a schedule that ends then.

    python benchmarks/timed_run.py 5 data.txt --preset=fast --no-wandb    # five minutes

Times a few steps and an evaluation first. Then it calls `fundamentallm train` with `--max-steps`
for the time that is left, and `--eval-every` for nine evaluations. So runs of any shape take equal
time, and hyperband compares them at equal fractions of their schedules.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace
from typing import Any

import torch
from comparing import seconds_since_start

from fundamentallm import Config
from fundamentallm.__main__ import main as fundamentallm
from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.config.presets import PRESETS
from fundamentallm.data.dataset import Dataset, prepare, training_batch
from fundamentallm.data.text import read_text
from fundamentallm.machine.cores_and_memory import keep_freed_memory
from fundamentallm.training.evaluate import score
from fundamentallm.training.isolation import run_alone
from fundamentallm.training.train_step import TrainStep

CPU = torch.device("cpu")
EVALUATIONS = 9
MOST_STEPS, MOST_SECONDS = 300, 3.0
"""Limits of the timed steps."""
SCORED = 16_384
"""Tokens of the timed evaluation."""
SAFE = 0.95
"""Fraction of the time to plan for: a schedule that is cut off loses more than it saves."""


def measure(config: Config, data: Dataset) -> tuple[float, float]:
    """Return the seconds of a step and of an evaluation, with the threads of a run."""
    with run_alone(config, CPU):
        train_step = TrainStep(len(data.vocabulary), config, CPU)
        took: list[float] = []
        while len(took) < MOST_STEPS and sum(took) < MOST_SECONDS:
            start = time.perf_counter()
            train_step.step(training_batch(data.train, config, len(took)), config.learning_rate)
            took.append(time.perf_counter() - start)
        train_step.model.eval()
        part = data.scored[:SCORED]
        start = time.perf_counter()
        score(train_step.model, part, len(part), config, CPU)
        evaluation = (time.perf_counter() - start) * len(data.scored) / len(part)
    return statistics.median(took), evaluation  # the first steps are slower


def fitted(config: Config, data: Dataset, seconds: float) -> Config:
    """Return `config` with a length that takes about `seconds`, measuring included."""
    start = time.perf_counter()
    step, evaluation = measure(config, data)
    left = SAFE * (seconds - (time.perf_counter() - start))
    evaluations = max(1, min(EVALUATIONS, int(left / 4 / evaluation)))
    steps = max(evaluations, int((left - evaluations * evaluation) / step))
    every = -(-steps // evaluations)
    return replace(config, max_steps=steps, epochs=1_000_000, eval_every=every)


def main() -> None:
    minutes, text, *flags = sys.argv[1:]
    values: dict[str, Any] = {}
    for flag in flags:
        name, _, value = flag.removeprefix("--").replace("-", "_").partition("=")
        if name == "preset":
            values = {**PRESETS[value].values, **values}
        elif name in HYPERPARAMETERS:
            values[name] = flag.partition("=")[2]
    keep_freed_memory()
    config = Config(**values)
    data = prepare(read_text(text), config)
    used = fitted(config, data, 60 * float(minutes) - seconds_since_start())
    length = [f"--{name}={getattr(used, name)}" for name in ("max_steps", "epochs", "eval_every")]
    fundamentallm(["train", text, *flags, *length])


if __name__ == "__main__":
    main()
