"""Objectives that no search was tuned on: simulated programs with poor defaults, classic functions.

`SimulatedProgram` differs from simulated_training.py in all that a search might rely on. Its best
values lie near the ends of the ranges, far from the middle, with which every search begins. Three
of nine parameters change nothing. Its terms are valleys, plateaus and ripples, not bowls; the best
rate depends on the optimizer; noise has heavy tails; and a run that blows up reports a finite loss
that nothing marks as a failure. Both were written before any search saw them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

NOISE = 0.01
OPTIMIZERS = ("sgd", "adam", "lion")
ACTIVATIONS = ("relu", "gelu", "silu", "tanh")
RATE, MOMENTUM, WIDTH = (-5.0, -0.5), (0.5, 0.999), (16, 1024)
PROGRAM_SWEEP = """\
program: theirs.py
method: bayes
run_cap: 30
metric: {name: val_loss, goal: minimize}
parameters:
  rate: {distribution: log_uniform_values, min: 1.0e-05, max: 0.316227766}
  momentum: {min: 0.5, max: 0.999}
  width: {distribution: log_uniform_values, min: 16, max: 1024}
  clip: {distribution: log_uniform_values, min: 0.01, max: 10.0}
  mixing: {min: 0.0, max: 1.0}
  optimizer: {values: [sgd, adam, lion]}
  activation: {values: [relu, gelu, silu, tanh]}
  workers: {min: 1, max: 16}
  buffer: {distribution: log_uniform_values, min: 1.0, max: 1000.0}
"""


class SimulatedProgram:
    """One landscape of another program's loss; `workers`, `buffer` and one more change nothing."""

    sweep = PROGRAM_SWEEP
    guess = math.inf
    """Score from which a run counts as diverged: none does."""
    is_ours = False

    def __init__(self, seed: int) -> None:
        dice = random.Random(f"program {seed}")
        self.seed = seed
        self.rate = {name: _near_an_end(dice) for name in OPTIMIZERS}
        self.optimizer = {name: dice.uniform(0.0, 0.3) for name in OPTIMIZERS}
        self.activation = {name: dice.uniform(0.0, 0.1) for name in ACTIVATIONS}
        self.momentum, self.width = _near_an_end(dice), _near_an_end(dice)
        self.clip, self.mixing = dice.uniform(0.1, 0.9), _near_an_end(dice)
        self.tilt = dice.uniform(-0.6, 0.6)  # of the valley of rate and momentum
        self.steep, self.scale = dice.uniform(0.5, 1.5), dice.uniform(0.5, 2.0)
        self.irrelevant = dice.choice(("clip", "mixing", "activation"))
        self.ripples, self.phase = dice.uniform(0.0, 0.04), dice.uniform(0, 2 * math.pi)
        self.blows_up_at = dice.uniform(0.1, 0.3)  # of the range above the best rate
        self.best = self._find_best(dice)

    def loss(self, values: Mapping[str, Any]) -> float:
        """Loss without noise."""
        u = _shares(values)
        rate = u["rate"] - self.rate[values["optimizer"]]
        momentum = u["momentum"] - self.momentum
        if rate > self.blows_up_at:
            return self.scale * (3 + 10 ** (8 * (rate - self.blows_up_at)))
        terms = [
            self.steep * abs(rate + self.tilt * momentum),
            0.5 * math.log(math.cosh(4 * momentum)),
            0.6 * (1 - math.exp(-4 * abs(u["width"] - self.width))),
            0.0 if self.irrelevant == "clip" else 0.15 * math.tanh(8 * abs(u["clip"] - self.clip)),
            0.0 if self.irrelevant == "mixing" else 0.3 * abs(u["mixing"] - self.mixing) ** 1.5,
            0.0 if self.irrelevant == "activation" else self.activation[values["activation"]],
            self.optimizer[values["optimizer"]],
            self.ripples * (1 + math.sin(25 * u["rate"] + self.phase)),
        ]
        return self.scale * (1 + sum(terms))

    def train(self, values: Mapping[str, Any], run: int) -> float:
        """Score of run number `run`."""
        dice = random.Random(f"noise {self.seed} {run}")
        heavy = 4.0 if dice.random() < 0.1 else 1.0
        return self.loss(values) + self.scale * heavy * abs(dice.gauss(0, NOISE))

    def regret(self, values: Mapping[str, Any]) -> float:
        """Loss minus the best possible loss, without noise, in units of the landscape's scale."""
        return (self.loss(values) - self.best) / self.scale

    def _find_best(self, dice: random.Random) -> float:
        fine = [i / 200 for i in range(201)]
        choices: dict[str, Sequence[Any]] = {
            "rate": [10 ** _between(RATE, u) for u in fine],
            "momentum": [_between(MOMENTUM, u) for u in fine],
            "width": [16 * 64**u for u in fine],
            "clip": [10 ** (-2 + 3 * u) for u in fine],
            "mixing": fine,
            "optimizer": OPTIMIZERS,
            "activation": ACTIVATIONS,
        }
        return lowest(self.loss, choices, dice)


def lowest(
    loss: Callable[[Mapping[str, Any]], float],
    choices: Mapping[str, Sequence[Any]],
    dice: random.Random,
) -> float:
    """Return the lowest loss, by coordinate descent from many starts."""
    best = math.inf
    for _ in range(12):
        point = {name: dice.choice(values) for name, values in choices.items()}
        before = math.inf
        while loss(point) < before:
            before = loss(point)
            for name, values in choices.items():
                point[name] = min(values, key=lambda v, name=name: loss({**point, name: v}))
        best = min(best, before)
    return best


def _near_an_end(dice: random.Random) -> float:
    return dice.choice((dice.uniform(0.03, 0.2), dice.uniform(0.8, 0.97)))


def _between(ends: tuple[float, float], u: float) -> float:
    return ends[0] + u * (ends[1] - ends[0])


def _share(ends: tuple[float, float], value: float) -> float:
    return (value - ends[0]) / (ends[1] - ends[0])


def _shares(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers as shares of their ranges."""
    logs = math.log10(WIDTH[0]), math.log10(WIDTH[1])
    return {
        "rate": _share(RATE, math.log10(values["rate"])),
        "momentum": _share(MOMENTUM, values["momentum"]),
        "width": _share(logs, math.log10(values["width"])),
        "clip": _share((-2.0, 1.0), math.log10(values["clip"])),
        "mixing": values["mixing"],
    }


def branin(x: Sequence[float]) -> float:
    """Branin's function of two numbers in [0, 1], less its minimum."""
    a, b = 15 * x[0] - 5, 15 * x[1]
    bowl = (b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6) ** 2
    return bowl + 10 * (1 - 1 / (8 * math.pi)) * math.cos(a) + 10 - 0.397887


HARTMANN = (  # height, widths, center
    (1.0, (10, 3, 17, 3.5, 1.7, 8), (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886)),
    (1.2, (0.05, 10, 17, 0.1, 8, 14), (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991)),
    (3.0, (3, 3.5, 1.7, 10, 17, 8), (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650)),
    (3.2, (17, 8, 0.05, 10, 0.1, 14), (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381)),
)


def hartmann(x: Sequence[float]) -> float:
    """Hartmann's function of six numbers, less its minimum."""
    peaks = (
        height * math.exp(-sum(w * (a - c) ** 2 for w, a, c in zip(widths, x, center, strict=True)))
        for height, widths, center in HARTMANN
    )
    return 3.32237 - sum(peaks)


def rosenbrock(x: Sequence[float]) -> float:
    """Logarithm of 1 + Rosenbrock's function of four numbers, from -2 to 2."""
    z = [4 * each - 2 for each in x]
    return math.log1p(sum(100 * (b - a * a) ** 2 + (1 - a) ** 2 for a, b in pairwise(z)))


def ackley(x: Sequence[float]) -> float:
    """Ackley's function of five numbers, from -10 to 20: its minimum is off the middle."""
    z = [30 * each - 10 for each in x]
    mean_square = sum(each**2 for each in z) / len(z)
    waves = sum(math.cos(2 * math.pi * each) for each in z) / len(z)
    return 20 + math.e - 20 * math.exp(-0.2 * math.sqrt(mean_square)) - math.exp(waves)


def levy(x: Sequence[float]) -> float:
    """Levy's function of eight numbers, from -10 to 10."""
    w = [1 + (20 * each - 11) / 4 for each in x]
    waves = sum((a - 1) ** 2 * (1 + 10 * math.sin(math.pi * a + 1) ** 2) for a in w[:-1])
    last = (w[-1] - 1) ** 2 * (1 + math.sin(2 * math.pi * w[-1]) ** 2)
    return math.sin(math.pi * w[0]) ** 2 + waves + last


CLASSICS: Mapping[str, tuple[Callable[[Sequence[float]], float], int]] = {
    "branin": (branin, 2),
    "rosenbrock": (rosenbrock, 4),
    "ackley": (ackley, 5),
    "hartmann": (hartmann, 6),
    "levy": (levy, 8),
}


class ClassicFunction:
    """Function `seed` modulo 5 of CLASSICS, in units of what 30 random draws reach (median)."""

    guess = math.inf
    is_ours = False

    def __init__(self, seed: int) -> None:
        self.function, self.dimensions = list(CLASSICS.values())[seed % len(CLASSICS)]
        dice = random.Random(f"classic {seed}")
        self.flipped = [dice.random() < 0.5 for _ in range(self.dimensions)]
        fields = (f"  x{i}: {{min: 0.0, max: 1.0}}\n" for i in range(self.dimensions))
        head = PROGRAM_SWEEP.partition("  rate")[0]
        self.sweep = head + "".join(fields)
        draws = [[self._at_random(dice) for _ in range(30)] for _ in range(51)]
        self.unit = sorted(map(min, draws))[25]

    def _at_random(self, dice: random.Random) -> float:
        return self.function([dice.random() for _ in range(self.dimensions)])

    def regret(self, values: Mapping[str, Any]) -> float:
        """Value above the minimum, in units of random search."""
        x = [abs(flip - values[f"x{i}"]) for i, flip in enumerate(self.flipped)]
        return self.function(x) / self.unit

    def train(self, values: Mapping[str, Any], run: int) -> float:
        """Score of run number `run`, without noise."""
        return self.regret(values)
