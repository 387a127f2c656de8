"""A simulated training run: nine hyperparameters in, a validation loss out, in microseconds.

The shape follows docs/dev/experiments.md, measured on the real trainer. A learning rate ten times
too low costs about 0.8 nats, three times too high 0.1, and higher ones diverge; wider models need
lower rates; the rest costs hundredths to tenths. A diverged run stays finite, as real ones do for
three decades of the rate: its loss grows from a uniform guess's to tens of thousands (7 at rate
0.3, 127 at 3, 26,485 at 300). Every `seed` draws new best values and effects, so that no search is
tuned to one landscape. The simulation was committed before any search was tuned with it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

VOCABULARY = 65
UNIFORM_GUESS = math.log(VOCABULARY)
NOISE = 0.01  # difference of two seeds of the real trainer, nats
BLOW_UP = 1.2  # decades of loss a decade of rate above the cliff
BLOW_UP_NOISE = 0.2  # of the logarithm of such a loss
SWEEP = """\
program: train.py
method: bayes
run_cap: 30
metric: {name: val_loss, goal: minimize}
parameters:
  learning_rate: {distribution: log_uniform_values, min: 0.00001, max: 0.1}
  weight_decay: {distribution: log_uniform_values, min: 0.001, max: 1.0}
  model_dim: {values: [64, 96, 128, 192, 256, 384, 512]}
  num_heads: {values: [2, 4, 6, 8, 12, 16]}
  num_layers: {min: 2, max: 12}
  dropout: {min: 0.0, max: 0.3}
  batch_size: {values: [8, 16, 32, 64, 128]}
  lr_schedule: {values: [constant, cosine, exponential, linear]}
  warmup_steps: {values: [0, 20, 50, 100, 200]}
"""


class SimulatedTraining:
    """One landscape of the loss."""

    sweep = SWEEP
    guess = UNIFORM_GUESS
    """Score from which a run counts as diverged."""
    is_ours = True

    def __init__(self, seed: int) -> None:
        dice = random.Random(f"landscape {seed}")
        self.seed = seed
        self.log_rate = dice.uniform(-3.4, -2.4)  # at width 128 and batch 32
        self.rate_by_width = dice.uniform(0.2, 1.0)  # decades of rate a decade of width
        self.rate_by_batch = dice.uniform(0.2, 0.5)
        self.too_low, self.too_high = dice.uniform(0.4, 0.9), dice.uniform(0.3, 0.7)
        self.cliff = dice.uniform(0.5, 1.0)  # decades above the best rate
        self.warmup_helps = dice.uniform(0.1, 0.4)  # decades that warm-up moves the cliff
        self.log_width = dice.uniform(math.log2(96), math.log2(400))
        self.width, self.depth = dice.uniform(0.02, 0.08), dice.uniform(0.01, 0.04)
        self.layers = dice.uniform(3, 9)
        self.head_dim, self.heads = dice.choice([16, 32, 64]), dice.uniform(0.005, 0.02)
        self.dropout, self.overfit = dice.uniform(0.0, 0.2), dice.uniform(0.5, 3.0)
        self.log_decay, self.decay = dice.uniform(-2, -0.5), dice.uniform(0.005, 0.03)
        self.log_batch, self.batch = dice.uniform(3, 5.5), dice.uniform(0.01, 0.05)
        self.schedules = {
            "constant": dice.uniform(0.03, 0.1),
            "exponential": dice.uniform(0.0, 0.08),
            "cosine": dice.uniform(0.0, 0.02),
            "linear": dice.uniform(0.0, 0.02),
        }
        self.best = self._find_best(dice)

    def is_possible(self, values: Mapping[str, Any]) -> bool:
        """True if the heads divide the width."""
        return values["model_dim"] % values["num_heads"] == 0

    def diverges(self, values: Mapping[str, Any]) -> bool:
        """True if the learning rate is above the cliff."""
        return self._above_cliff(values) > 0

    def loss(self, values: Mapping[str, Any]) -> float:
        """Loss without noise; that of a uniform guess if the run diverges or is impossible."""
        if not self.is_possible(values) or self.diverges(values):
            return UNIFORM_GUESS
        rate = self._above_best_rate(values)
        width = math.log2(values["model_dim"]) - self.log_width
        over = max(width, 0) + max(values["num_layers"] - self.layers, 0) / 4
        drop = values["dropout"] - self.dropout - 0.05 * over  # larger models want more
        loss = 1.5
        loss += (self.too_low if rate < 0 else self.too_high) * rate**2
        loss += self.width * width**2 + self.depth * (values["num_layers"] - self.layers) ** 2 / 4
        loss += (
            self.heads * math.log2(values["model_dim"] / values["num_heads"] / self.head_dim) ** 2
        )
        loss += self.overfit * drop**2
        loss += self.decay * (math.log10(values["weight_decay"]) - self.log_decay) ** 2
        loss += self.batch * (math.log2(values["batch_size"]) - self.log_batch) ** 2 / 2
        loss += self.schedules[values["lr_schedule"]]
        loss += 0.0002 * abs(values["warmup_steps"] - 50)
        return min(loss, UNIFORM_GUESS)

    def train(self, values: Mapping[str, Any], run: int) -> float:
        """Score of run number `run`; that of a uniform guess if it is impossible."""
        loss = self.loss(values)
        dice = random.Random(f"noise {self.seed} {run}")
        if self.is_possible(values) and self.diverges(values):
            decades = BLOW_UP * self._above_cliff(values)
            return loss * 10**decades * math.exp(abs(dice.gauss(0, BLOW_UP_NOISE)))
        return loss if loss == UNIFORM_GUESS else loss + dice.gauss(0, NOISE)

    def regret(self, values: Mapping[str, Any]) -> float:
        """Loss minus the best possible loss, without noise."""
        return self.loss(values) - self.best

    def _above_cliff(self, values: Mapping[str, Any]) -> float:
        """Decades above the cliff; negative if the run does not diverge."""
        warm = min(values["warmup_steps"], 100) / 100 * self.warmup_helps
        return self._above_best_rate(values) - self.cliff - warm

    def _above_best_rate(self, values: Mapping[str, Any]) -> float:
        best = self.log_rate - self.rate_by_width * math.log10(values["model_dim"] / 128)
        best += self.rate_by_batch * math.log10(values["batch_size"] / 32)
        return math.log10(values["learning_rate"]) - best

    def _find_best(self, dice: random.Random) -> float:
        """Return the lowest loss, by coordinate descent from many starts."""
        choices: dict[str, list[Any]] = {
            "learning_rate": [10 ** (-5 + i / 100) for i in range(401)],
            "weight_decay": [10 ** (-3 + i / 50) for i in range(151)],
            "model_dim": [64, 96, 128, 192, 256, 384, 512],
            "num_heads": [2, 4, 6, 8, 12, 16],
            "num_layers": list(range(2, 13)),
            "dropout": [i / 200 for i in range(61)],
            "batch_size": [8, 16, 32, 64, 128],
            "lr_schedule": list(self.schedules),
            "warmup_steps": [0, 20, 50, 100, 200],
        }
        best = UNIFORM_GUESS
        for _ in range(12):
            point = {name: dice.choice(values) for name, values in choices.items()}
            before = math.inf
            while self.loss(point) < before:
                before = self.loss(point)
                for name, values in choices.items():
                    point[name] = min(values, key=lambda v: self.loss({**point, name: v}))
            best = min(best, before)
        return best
