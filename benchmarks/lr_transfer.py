"""Best learning rate by width, depth, batch size and length, one factor at a time.

    python benchmarks/lr_transfer.py --text tinyshakespeare.txt --json lr_transfer.json [--write]

Each setting is trained at five rates or more, a factor of 2 apart, until the best lies inside; the
best and its neighbors are trained with two more seeds. A parabola through the mean losses of these
three, over the logarithm of the rate, gives the best rate. Losses are those of the first half of
the validation text. One thread; each finished run is stored in the JSON file, and the same command
resumes there. docs/dev/experiments.md has the results.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import click
import torch
from comparing import machine, write_section

from fundamentallm import Config
from fundamentallm.data.dataset import Dataset, prepare, training_batch
from fundamentallm.data.text import read_text
from fundamentallm.machine.cores_and_memory import keep_freed_memory
from fundamentallm.training.evaluate import score
from fundamentallm.training.optimizer import ADAM_SCALE, MUON_SCALE, Adam, Muon
from fundamentallm.training.plan import Plan
from fundamentallm.training.train_step import TrainStep

CPU = torch.device("cpu")
PAGE = Path(__file__).parent.parent / "docs/dev/experiments.md"
BASE = Config(
    model_dim=64, num_layers=4, num_heads=4, max_seq_len=64, batch_size=16, dropout=0.0,
    max_steps=300, epochs=1_000_000, lr_schedule="wsd", min_lr_ratio=0.0,
)  # fmt: skip
HEAD_SIZE = 16
WARMUP = 0.05  # of a run's steps
SEEDS = (0, 1, 2)
RATES = 5  # at least, of each setting


@dataclass(frozen=True)
class Setting:
    """One change to the base, and the rule by which the parts' rates are scaled."""

    name: str
    changed: Mapping[str, float] = field(default_factory=dict)
    rule: str = "shipped"

    def config(self, power: int, seed: int) -> Config:
        """Return the configuration of a run at rate 1e-3 * 2**power."""
        config = replace(BASE, **self.changed, learning_rate=1e-3 * 2.0**power, seed=seed)  # pyright: ignore
        warmup, heads = int(WARMUP * config.max_steps), config.model_dim // HEAD_SIZE
        return replace(config, warmup_steps=warmup, num_heads=heads)


SETTINGS = (
    Setting("base"),
    Setting("128 wide", {"model_dim": 128}),
    Setting("256 wide", {"model_dim": 256}),
    Setting("8 times the steps", {"max_steps": 2400}),
    Setting("batch 8", {"batch_size": 8}),
    Setting("2 layers", {"num_layers": 2}),
    Setting("6 layers", {"num_layers": 6}),
    Setting("batch 64", {"batch_size": 64}),
)
DECAYS = (  # other fractions of the steps that decay; the base's is a fifth
    Setting("half decays", {"decay_fraction": 0.5}),
    Setting("half decays, 8 times", {"decay_fraction": 0.5, "max_steps": 2400}),
    Setting("half decays, 32 times", {"decay_fraction": 0.5, "max_steps": 9600}),
    Setting("all decay", {"decay_fraction": 1.0}),
    Setting("all decay, 8 times", {"decay_fraction": 1.0, "max_steps": 2400}),
)
RULES = (
    Setting("256 wide", {"model_dim": 256}, "head 1/width"),
    Setting("2 layers", {"num_layers": 2}, "outputs 1/sqrt(layers)"),
    Setting("6 layers", {"num_layers": 6}, "outputs 1/sqrt(layers)"),
    Setting("256 wide", {"model_dim": 256}, "matrices sqrt(width)"),
)


def apply_rule(step: TrainStep, rule: str) -> None:
    """Scale the rates of the parts relative to the base, which every rule leaves unchanged."""
    if rule == "shipped":
        return
    config, model = step.config, step.model
    wider, deeper = config.model_dim / BASE.model_dim, config.num_layers / BASE.num_layers
    factors = {"head": 1.0, "outputs": 1.0, "matrices": 1.0}
    match rule:
        case "head 1/width":
            factors["head"] = 1 / wider
        case "matrices sqrt(width)":  # the length of 0.2 sqrt(max(in, out)), Liu et al., 2025
            factors["matrices"] = factors["outputs"] = math.sqrt(wider)
        case "outputs 1/sqrt(layers)":
            factors["outputs"] = 1 / math.sqrt(deeper)
        case _:
            raise ValueError(rule)
    groups: dict[str, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name.startswith("layers."):
            kind = "outputs" if name.endswith("out.weight") else "matrices"
        else:
            kind = "head" if name.startswith("head.") else "embedding"
        groups.setdefault(kind, []).append(parameter)
    parts, scales = [], []
    for kind, parameters in groups.items():
        lr = torch.tensor(0.0)
        if kind in ("outputs", "matrices"):
            decay, dtype = config.weight_decay, torch.float32
            parts.append(Muon(parameters, lr=lr, weight_decay=decay, dtype=dtype))
            scales.append(MUON_SCALE * factors[kind])
        else:
            parts.append(Adam(parameters, lr=lr, beta2=config.beta2))
            scales.append(ADAM_SCALE * factors.get(kind, 1.0))
    optimizers = step.optimizers
    optimizers.parts, optimizers.scales = tuple(parts), tuple(scales)  # pyright: ignore


def train(setting: Setting, config: Config, data: Dataset) -> dict[str, float]:
    """Train one run; return its loss and processor time."""
    step = TrainStep(len(data.vocabulary), config, CPU)
    apply_rule(step, setting.rule)
    plan = Plan(config, data.batches_per_epoch(config))
    start = time.process_time()
    for number in range(config.max_steps):
        step.step(training_batch(data.train, config, number), plan.learning_rate(number))
    seconds = time.process_time() - start
    step.model.eval()
    half = data.val[: len(data.val) // 2]
    loss = score(step.model, half, len(half), config, CPU).loss
    return {"loss": round(loss, 5), "seconds": round(seconds, 1)}


class Results:
    """Finished runs by setting, rate and seed, stored in one JSON file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, object]] = (
            json.loads(path.read_text("utf-8")) if path.exists() else []
        )

    def loss(self, setting: Setting, power: int, seed: int) -> float | None:
        """Return the loss of a finished run."""
        for row in self.rows:
            wanted = (setting.name, setting.rule, power, seed)
            if (row["setting"], row["rule"], row["power"], row["seed"]) == wanted:
                loss = row["loss"]
                assert isinstance(loss, float)
                return loss
        return None

    def add(self, setting: Setting, power: int, seed: int, result: dict[str, float]) -> None:
        """Store a finished run."""
        about = {"setting": setting.name, "rule": setting.rule, "power": power, "seed": seed}
        self.rows.append({**about, **result})
        temporary = self.path.with_suffix(".tmp")
        lines = ",\n".join(json.dumps(row) for row in self.rows)
        temporary.write_text(f"[\n{lines}\n]\n", "utf-8")
        temporary.replace(self.path)

    def powers(self, setting: Setting, seed: int) -> dict[int, float]:
        """Return the loss of every finished rate of `setting` with `seed`."""
        return {
            power: loss
            for power in range(-8, 9)
            if (loss := self.loss(setting, power, seed)) is not None
        }


def bracket(setting: Setting, results: Results) -> Iterator[tuple[int, int]]:
    """Yield rate and seed of the runs that enclose the best rate with one seed."""
    yield 0, SEEDS[0]
    while True:
        found = results.powers(setting, SEEDS[0])
        best = min(found, key=lambda power: found[power])
        missing = {best - 1, best + 1} - set(found)
        if not missing:
            return
        yield min(missing), SEEDS[0]


def more_seeds(setting: Setting, results: Results) -> Iterator[tuple[int, int]]:
    """Yield rate and seed of the runs that repeat the best rate and its neighbors."""
    found = results.powers(setting, SEEDS[0])
    best = min(found, key=lambda power: found[power])
    for seed in SEEDS[1:]:
        for power in (best - 1, best, best + 1):
            yield power, seed


def more_rates(setting: Setting, results: Results) -> Iterator[tuple[int, int]]:
    """Yield rate and seed of the runs that complete five rates, next to the better end first."""
    while len(found := results.powers(setting, SEEDS[0])) < RATES:
        low, high = min(found), max(found)
        yield (low - 1 if found[low] < found[high] else high + 1), SEEDS[0]


PHASES = (  # the most informative runs first, for their time
    (bracket, SETTINGS),
    (more_seeds, SETTINGS[:1]),
    (bracket, DECAYS),
    (bracket, RULES[:1]),
    (more_seeds, SETTINGS),
    (bracket, RULES[1:]),
    (more_rates, SETTINGS),
    (more_seeds, RULES),
)


@dataclass(frozen=True)
class Optimum:
    """Parabola of the loss over log2(rate / 1e-3) around the best rate."""

    place: float
    loss: float
    curve: float

    def at(self, place: float) -> float:
        """Return the loss at another rate."""
        return self.loss + self.curve * (place - self.place) ** 2


def parabola(losses: Mapping[int, float], middle: int) -> Optimum:
    """Return the parabola through the losses at `middle` and half and twice that rate."""
    below, least, above = (losses[middle + d] for d in (-1, 0, 1))
    slope, curve = (above - below) / 2, (below + above) / 2 - least
    place = -slope / (2 * curve)
    return Optimum(middle + place, least - curve * place**2, curve)


@dataclass(frozen=True)
class Found:
    """Best rate of a setting: of its mean losses, and of each seed."""

    optimum: Optimum
    places: Sequence[float]
    first: Mapping[int, float]
    """Losses of the first seed, which has more rates than the others."""

    def cost(self, place: float) -> float:
        """Return what another rate costs, in nats, from the three nearest rates of one seed."""
        inside = sorted(self.first)[1:-1]
        best = min(inside, key=lambda power: self.first[power])
        near = min(inside, key=lambda power: abs(power - place))
        return parabola(self.first, near).at(place) - parabola(self.first, best).loss


def find(setting: Setting, results: Results) -> Found | None:
    """Return the best rate of a setting, or None while its runs do not enclose it."""
    by_seed = [results.powers(setting, seed) for seed in SEEDS]
    if not by_seed[0]:
        return None
    best = min(by_seed[0], key=lambda power: by_seed[0][power])
    complete = [losses for losses in by_seed if {best - 1, best, best + 1} <= set(losses)]
    if not complete:
        return None
    means = {best + d: statistics.mean(losses[best + d] for losses in complete) for d in (-1, 0, 1)}
    return Found(
        parabola(means, best), [parabola(losses, best).place for losses in complete], by_seed[0]
    )


def table(results: Results) -> str:
    """Return losses by rate, and the best rates, as a Markdown table.

    Losses are means over the seeds that have finished.
    """
    powers = sorted({int(str(row["power"])) for row in results.rows})
    rates = " | ".join(f"{1e-3 * 2.0**power:.2g}" for power in powers)
    ends = "best rate | its loss | cost of the base's rate | seeds"
    lines = [f"| setting | {rates} | {ends} |", "| -- " * (len(powers) + 5) + "|"]
    base = find(SETTINGS[0], results)
    for setting in (*SETTINGS, *DECAYS, *RULES):
        cells = []
        for power in powers:
            losses = [results.loss(setting, power, seed) for seed in SEEDS]
            known = [loss for loss in losses if loss is not None]
            cells.append(f"{statistics.mean(known):.3f}" if known else "")
        found = find(setting, results)
        if found is None or base is None:
            continue
        optimum, places = found.optimum, [1e-3 * 2**place for place in found.places]
        spread = f" ({min(places):.2g}-{max(places):.2g})" if len(places) > 1 else ""
        cells += [
            f"{1e-3 * 2**optimum.place:.2g}{spread}",
            f"{optimum.loss:.3f}",
            f"{found.cost(base.optimum.place):.3f}",
            str(len(places)),
        ]
        name = setting.name if setting.rule == "shipped" else f"{setting.name}, {setting.rule}"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


FACTORS = {  # quantity: its value in each setting
    "width": {"base": 64, "128 wide": 128, "256 wide": 256},
    "layers": {"2 layers": 2, "base": 4, "6 layers": 6},
    "steps": {"base": 1, "8 times the steps": 8},
    "steps, half decay": {"half decays": 1, "half decays, 8 times": 8, "half decays, 32 times": 32},
    "steps, all decay": {"all decay": 1, "all decay, 8 times": 8},
    "batch, at equal steps": {"batch 8": 8, "base": 16, "batch 64": 64},
}


def exponents(results: Results) -> str:
    """Return, by factor, the exponent of a power law through the best rates."""
    places = {
        s.name: found.optimum.place for s in (*SETTINGS, *DECAYS) if (found := find(s, results))
    }
    slopes: dict[str, float] = {}
    for factor, values in FACTORS.items():
        known = {name: math.log2(value) for name, value in values.items() if name in places}
        if len(known) > 1:
            rates = [places[name] for name in known]
            slopes[factor] = statistics.linear_regression(list(known.values()), rates).slope
    batch = "batch, at equal steps"
    for steps in ("steps", "steps, half decay"):
        if batch in slopes and steps in slopes:
            name = steps.replace("steps", "batch, at equal tokens")
            slopes[name] = slopes[batch] - slopes[steps]
    lines = ["| factor | exponent of the best rate |", "| -- | -- |"]
    return "\n".join([*lines, *(f"| {name} | {slope:.2f} |" for name, slope in slopes.items())])


@click.command()
@click.option("--text", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "path", type=click.Path(path_type=Path), required=True)
@click.option("--write", is_flag=True, help="Write the table to docs/dev/experiments.md.")
def main(text: Path | None, path: Path, write: bool) -> None:
    """Run what is missing (with --text), then print the table."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as `fundamentallm train` does
    results = Results(path)
    if text is not None:
        data = prepare(read_text(text), BASE)
        for choose, settings in PHASES:
            for setting in settings:
                for power, seed in choose(setting, results):
                    if results.loss(setting, power, seed) is None:
                        result = train(setting, setting.config(power, seed), data)
                        results.add(setting, power, seed, result)
                        print(setting.name, setting.rule, power, seed, result, flush=True)
    text_found = f"{table(results)}\n\n{exponents(results)}"
    print(text_found)
    if write:
        write_section("lr_transfer", f"{machine()}:\n\n{text_found}", PAGE)


if __name__ == "__main__":
    main()
