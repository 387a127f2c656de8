"""Simulated sweeps with known answers, which test `explain`.

Each case first draws its truth: which parameters matter and how much, the best values, the shapes
of the curves. Then it writes the run folders that such a sweep would leave. A third of the cases
are nulls: every difference is noise, and no rule should claim anything. Sizes follow
docs/dev/experiments.md: seeds differ by about 0.01 nats, a wrong learning rate costs tenths. The
cases were written and committed before the rules.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import yaml

BLOW_UPS = ("", "ours", "theirs")
"""Ends of a run beyond the cliff: nan; finite and diverged, as our trainer reports it; finite and
done, as another program reports it."""
BLOW_UP = 5  # decades of loss a decade of rate above the cliff; of real runs 1.2, over more decades
CASES = range(100)
"""Numbers of the reported cases; develop against other numbers."""
VOCABULARY = 90
CLEAR, NEGLIGIBLE = 3.0, 1.0
"""Effects in units of the noise: from CLEAR on, a rule must claim; below NEGLIGIBLE it must not."""


@dataclass(frozen=True)
class Axis:
    """One parameter, as in a sweep file, with its values by position in [0, 1]."""

    name: str
    content: dict[str, Any]
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 1.0

    def value(self, u: float) -> Any:
        """Value at `u`."""
        if self.values:
            return self.values[min(int(u * len(self.values)), len(self.values) - 1)]
        if self.content.get("distribution") == "int_uniform":
            return round(self.low + u * (self.high - self.low))
        if "log" in self.content["distribution"]:
            return math.exp(math.log(self.low) + u * math.log(self.high / self.low))
        return self.low + u * (self.high - self.low)

    def position(self, value: Any) -> float:
        """Position of `value` in [0, 1]."""
        if self.values:
            return self.values.index(value) / max(len(self.values) - 1, 1)
        if "log" in self.content["distribution"]:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    @property
    def is_numeric(self) -> bool:
        """True if its values have an order."""
        return not isinstance(self.values[0] if self.values else 0.0, str)


def _range(name: str, kind: str, low: float, high: float) -> Axis:
    return Axis(name, {"distribution": kind, "min": low, "max": high}, (), low, high)


def _values(name: str, *values: Any) -> Axis:
    return Axis(name, {"values": list(values)}, values)


RATES = ((0.0001, 0.0003, 0.001, 0.003, 0.01), (0.0001, 0.001, 0.01))
DRAWN = (
    _range("learning_rate", "log_uniform_values", 0.0001, 0.01),
    _range("weight_decay", "log_uniform_values", 0.001, 1.0),
    _range("dropout", "uniform", 0.0, 0.3),
    _range("num_layers", "int_uniform", 2, 12),
    _values("model_dim", 64, 128, 256, 512),
    _values("batch_size", 8, 16, 32, 64, 128),
    _values("lr_schedule", "constant", "exponential"),
)
LISTED = (
    _values("weight_decay", 0.01, 0.1, 1.0),
    _values("dropout", 0.0, 0.1, 0.2, 0.3),
    _values("num_layers", 2, 4, 8),
    _values("model_dim", 64, 128, 256),
    _values("batch_size", 16, 32, 64, 128),
    _values("lr_schedule", "constant", "exponential"),
)


@dataclass
class Truth:
    """Truth about a sweep, which `explain` should find."""

    is_null: bool
    effects: dict[str, float] = field(default_factory=dict)
    """Worst minus best loss over the tried values, in units of the noise, by parameter."""
    edges: dict[str, str] = field(default_factory=dict)
    """`low`, `high`, `inside` or `unclear`, by parameter with a clear effect."""
    lead: float | None = None
    """Lead of the best configuration in units of the noise; None without repeated seeds."""
    diverges_above: str = ""
    """Parameter that makes runs diverge, or `chance`."""
    more_runs: str = "unclear"
    """`help` or `waste`: the effect of doubling the number of runs."""
    falling: bool = False
    overfitting: bool = False
    best_early: bool = False
    underfitting: bool = False
    clipping: bool = False
    unstable: bool = False


class SimulatedSweep:
    """Simulated sweep of case `number`."""

    def __init__(self, number: int) -> None:
        self.dice = dice = random.Random(f"sweep {number}")
        self.number = number
        self.truth = Truth(is_null=number % 3 == 0)
        self.noise = math.exp(dice.uniform(math.log(0.004), math.log(0.03)))
        self.base = dice.uniform(1.3, 2.0)
        self.method = dice.choice(["grid", "random", "random", "bayes"])
        self._draw_axes()
        self.shapes = {axis.name: self._shape(axis) for axis in self.axes}
        self._draw_curves()
        self.cliff = math.inf
        self._draw_divergence()
        self.points = self._draw_points()
        if 2 * sum(map(self.blows_up, range(len(self.points)))) >= len(self.points):
            self.blow_up = self.blow_up and "ours"  # else nothing marks a blow-up
        self._measure()

    # --- Parameters and their effect on the loss ---

    def _draw_axes(self) -> None:
        dice = self.dice
        if self.method == "grid":
            count = dice.choice([1, 2, 2])
            rates = _values("learning_rate", *dice.choice(RATES))
            self.axes = [rates, *dice.sample(LISTED, count - 1)]
            dice.shuffle(self.axes)
            self.seeds = dice.choice([1, 2, 3]) if count == 2 else dice.choice([2, 3])
        else:
            count = dice.choice([1, 2, 3, 4])
            self.axes = dice.sample(DRAWN, count)
            self.seeds = 1
        self.runs = dice.randint(max(10, 7 * count), max(16, 10 * count))
        if self.method != "grid" and dice.random() < 0.3:
            self.seeds = 2

    def _shape(self, axis: Axis) -> Callable[[float], float]:
        """Return the cost in nats by position on the axis: a valley, or a cost per value."""
        dice = self.dice
        if self.truth.is_null or dice.random() < 0.35:
            return lambda u: 0.0
        most = 60 if axis.name == "learning_rate" else 20
        size = self.noise * math.exp(dice.uniform(math.log(2), math.log(most)))
        if not axis.is_numeric:
            return lambda u: size * (u > 0.5)
        middle = dice.choice(
            [dice.uniform(0.25, 0.75), dice.uniform(-0.3, 0), dice.uniform(1, 1.3)]
        )
        left, right = dice.uniform(0.5, 1.5), dice.uniform(0.5, 1.5)
        power = dice.uniform(1.5, 2.5)

        def raw(u: float) -> float:
            return (left if u < middle else right) * abs(u - middle) ** power

        ends = [raw(i / 100) for i in range(101)]
        scale = size / (max(ends) - min(ends))
        return lambda u: scale * (raw(u) - min(ends))

    def loss(self, values: dict[str, Any]) -> float:
        """Loss without noise."""
        costs = (self.shapes[axis.name](axis.position(values[axis.name])) for axis in self.axes)
        return self.base + sum(costs)

    # --- Configurations ---

    def _draw_points(self) -> list[dict[str, Any]]:
        if self.method == "grid":
            grid = product(*(axis.values for axis in self.axes))
            points = [dict(zip((a.name for a in self.axes), point, strict=True)) for point in grid]
        else:
            points = [self._draw_point() for _ in range(self.runs // self.seeds)]
            if self.method == "bayes":  # a learning search returns to good regions
                for index in range(len(points) // 3, len(points)):
                    tries = [self._draw_point() for _ in range(2)]
                    points[index] = min(tries, key=self.loss)
        distinct = {self._key(point): point for point in reversed(points)}  # as in a sweep
        points = list(reversed(distinct.values()))
        return [{**point, "seed": seed} for point in points for seed in range(self.seeds)]

    def _draw_point(self) -> dict[str, Any]:
        return {axis.name: axis.value(self.dice.random()) for axis in self.axes}

    # --- Curves of the runs ---

    def _draw_curves(self) -> None:
        dice, truth = self.dice, self.truth
        self.evaluations = dice.randint(12, 24)
        self.every = dice.choice([20, 50, 100])
        self.wobble = self.noise * dice.uniform(0.05, 0.3)
        if not truth.is_null:
            kind = dice.choice(["", "", "falling", "overfitting", "best_early", "underfitting"])
            if kind:
                setattr(truth, kind, True)
            truth.clipping = dice.random() < 0.3
            truth.unstable = dice.random() < 0.3
        self.rise = dice.uniform(0.03, 0.15)
        self.fall = dice.uniform(0.04, 0.12)
        self.turn = dice.uniform(0.3, 0.6) if not truth.best_early else 0.05
        if truth.best_early:
            self.evaluations = 24
        self.gap = dice.uniform(-0.002, 0.002) if truth.underfitting else dice.uniform(0.04, 0.1)
        self.clipped = dice.uniform(0.65, 0.95) if truth.clipping else dice.uniform(0.02, 0.35)
        self.spike = dice.uniform(0.2, 0.6)

    def _draw_divergence(self) -> None:
        dice, truth, self.blow_up = self.dice, self.truth, ""
        names = [axis.name for axis in self.axes]
        if truth.is_null or dice.random() < 0.6:
            return
        if "learning_rate" in names and dice.random() < 0.75:
            truth.diverges_above = "learning_rate"
            self.cliff = dice.uniform(0.65, 0.8)
        else:
            truth.diverges_above = "chance"
        self.blow_up = random.Random(f"blow-up {self.number}").choice(BLOW_UPS)

    def has_diverged(self, index: int) -> bool:
        """True if run `index` is reported as diverged."""
        return self.blow_up != "theirs" and self.blows_up(index)

    def blows_up(self, index: int) -> bool:
        """True if the loss of run `index` blows up, by its learning rate or by chance."""
        if self.truth.diverges_above == "chance":
            return random.Random(f"chance {self.number} {index}").random() < 0.12
        return self._above_cliff(self.points[index])

    def _rows(self, point: dict[str, Any], loss: float, blows_up: bool) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl: five training rows per evaluation."""
        dice, truth = self.dice, self.truth
        follows = dice.random() > 0.1  # a few runs of every sweep differ
        start, rows = math.log(VOCABULARY), []
        spike_at = dice.choice([2, 3, 4])
        total = 5 * self.evaluations
        for index in range(1, total + 1):
            t = index / total
            val = loss + (start - loss) * math.exp(-t * 14)
            if truth.falling and follows:
                val += self.fall * loss * ((0.2 + t) ** -0.7 - 1.2**-0.7)
            if (truth.overfitting or truth.best_early) and follows:
                val = loss + (start - loss) * math.exp(-t * 14 / min(1, 2 * self.turn))
                val += self.rise * loss * max(0, t - self.turn) / (1 - self.turn)
            train = val - self.gap * loss * min(1, 4 * t)
            if (truth.overfitting or truth.best_early) and follows and t > self.turn:
                train -= 2 * self.rise * loss * (t - self.turn) / (1 - self.turn)
            if truth.unstable and follows and spike_at <= index < spike_at + 2:
                train += self.spike * start
            if blows_up and self.blow_up:
                val = train = start * self._times(point) ** (1 - math.exp(-t * 14))
            norm = math.exp(dice.gauss(0, 0.4))
            quantile = _normal_quantile(1 - self.clipped)
            row = {
                "step": index * self.every // 5,
                "epoch": t,
                "train_loss": train + dice.gauss(0, 4 * self.wobble),
                "optim/learning_rate": point.get("learning_rate", 0.001),
                "optim/grad_norm": norm / math.exp(0.4 * quantile),
                "perf/tokens_per_second": 10_000.0,
            }
            if index % 5 == 0:
                row["val_loss"] = val + dice.gauss(0, self.wobble)
            rows.append(row)
            if blows_up and not self.blow_up and t > 0.2:
                break
        return rows

    # --- The truth that follows from the draws ---

    def _measure(self) -> None:
        truth = self.truth
        alive = [point for point in self.points if not self._above_cliff(point)]
        for axis in self.axes:
            tried = sorted({axis.position(point[axis.name]) for point in alive})
            costs = [self.shapes[axis.name](u) for u in tried]
            truth.effects[axis.name] = (max(costs) - min(costs)) / self.noise if costs else 0.0
            if (
                self.blow_up == "theirs"
                and axis.name == "learning_rate"
                and len(alive) < len(self.points)
            ):
                truth.effects[axis.name] = 2.0 / self.noise  # blow-ups count as runs
            if axis.is_numeric and truth.effects[axis.name] >= CLEAR:
                truth.edges[axis.name] = self._edge(axis, tried)
        configurations = {self._key(point): self.loss(point) for point in alive}
        losses = sorted(configurations.values())
        if self.seeds > 1 and len(losses) > 1:
            truth.lead = (losses[1] - losses[0]) / self.noise
        if self.method == "random" and self.seeds == 1:
            truth.more_runs = self._worth_of_more(len(alive))

    def _edge(self, axis: Axis, tried: list[float]) -> str:
        shape = self.shapes[axis.name]
        best = min(tried, key=shape)
        if math.isfinite(self.cliff) and axis.name == "learning_rate" and best == max(tried):
            return "inside"  # beyond it, runs diverge
        if axis.values:
            order = sorted(tried, key=shape)
            if (shape(order[1]) - shape(order[0])) / self.noise < CLEAR:
                return "unclear"
            return "low" if best == tried[0] else "high" if best == tried[-1] else "inside"
        lowest = min((i / 200 for i in range(201)), key=shape)
        if lowest in (0.0, 1.0):  # compare the end with the value before it, as in a list
            before = shape(0.8 if lowest else 0.2)
            clear = (before - shape(lowest)) / self.noise >= CLEAR
            return ("high" if lowest else "low") if clear else "unclear"
        return "inside" if 0.2 <= lowest <= 0.8 else "unclear"

    def _above_cliff(self, point: dict[str, Any]) -> bool:
        axis = next((axis for axis in self.axes if axis.name == "learning_rate"), None)
        return axis is not None and axis.position(point[axis.name]) > self.cliff

    def _times(self, point: dict[str, Any]) -> float:
        """Return the loss of a blow-up in units of a uniform guess's loss."""
        decades = 0.5
        if self._above_cliff(point):
            rate = next(axis for axis in self.axes if axis.name == "learning_rate")
            values = (rate.value(self.cliff), point["learning_rate"])
            decades = math.log10(values[1] / min(values))
        return 2 * 10 ** (BLOW_UP * decades)

    def _key(self, point: dict[str, Any]) -> str:
        return repr([point[axis.name] for axis in self.axes])

    def _worth_of_more(self, runs: int) -> str:
        """Return `help`, `waste` or `unclear` for as many runs again, by the truth."""
        dice = random.Random(f"more {self.number}")
        keep, self.dice = self.dice, dice
        gains: list[float] = []
        for _ in range(200):
            losses = [self.loss(self._draw_point()) for _ in range(2 * runs)]
            gains.append(min(losses[:runs]) - min(losses))
        self.dice = keep
        gain = sum(gains) / len(gains) / self.noise
        return "help" if gain >= CLEAR else "waste" if gain <= NEGLIGIBLE else "unclear"

    # --- Files ---

    def write(self, folder: Path) -> Path:
        """Write the folder that `fundamentallm sweep` would leave, without checkpoints."""
        folder.mkdir(parents=True, exist_ok=True)
        parameters = {axis.name: axis.content for axis in self.axes}
        if self.seeds > 1:
            parameters["seed"] = {"values": list(range(self.seeds))}
        content = {
            "program": "train.py",
            "method": self.method,
            "metric": {"name": "val_loss", "goal": "minimize"},
            "parameters": parameters,
        }
        if self.method != "grid":
            content["run_cap"] = len(self.points)
        (folder / "sweep.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        for index, point in enumerate(self.points):
            self._write_run(folder / f"run-{index + 1:04}", index, point)
        return folder

    def _write_run(self, folder: Path, index: int, point: dict[str, Any]) -> None:
        folder.mkdir(exist_ok=True)
        diverged, blows_up = self.has_diverged(index), self.blows_up(index)
        loss = self.loss(point) + self.dice.gauss(0, self.noise)
        rows = self._rows(point, loss, blows_up)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        scored = [row for row in rows if "val_loss" in row]
        best = min(scored, key=lambda row: row["val_loss"], default=None)
        total = self.evaluations * self.every
        summary = {
            "status": "diverged" if diverged else "done",
            "stopped_by": "its loss" if diverged else "max_steps",
            "step": rows[-1]["step"],
            "best_val_loss": best["val_loss"] if best else math.log(VOCABULARY),
            "best_step": best["step"] if best else 0,
            "val_loss": scored[-1]["val_loss"] if scored else math.log(VOCABULARY),
            "total_steps": total,
            "seconds": 60.0,
        }
        if self.blow_up != "theirs":
            summary["vocabulary_size"] = VOCABULARY
        (folder / "summary.json").write_text(json.dumps(summary))
        defaults = {"gradient_clip": 1.0, "warmup_steps": 0, "lr_schedule": "constant"}
        config = {**defaults, "learning_rate": 0.001, "max_steps": total, **point}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))


def _normal_quantile(share: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(share)
