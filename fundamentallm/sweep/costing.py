"""What a sweep will cost here: some real steps of its cheapest and its dearest run.

Each is tried in a process of its own, so that one which takes all memory takes nobody along, and
with a few sequences a step where the whole batch would take too long: its time grows evenly with
them.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from multiprocessing.connection import Connection
from typing import Any

from fundamentallm.hyperparameters import HYPERPARAMETERS, Config
from fundamentallm.machine import free_gb
from fundamentallm.plan import sequences_at_once
from fundamentallm.sweep.checking import extremes, size
from fundamentallm.sweep.points import DATA, Points, hyperparameter_name

DEAR = ("model_dim", "num_layers", "max_seq_len", "batch_size", "gradient_accumulation")
LENGTH = ("epochs", "max_steps")
SECONDS = 90  # that one corner may take
STEPS = 3
ROOM = 0.9  # of the memory that is free
HOPELESS = 2  # times what is free
MOST_SHOWN = 6


@dataclass(frozen=True)
class Corner:
    """One extreme of the sweep, as it was tried."""

    settings: dict[str, Any]
    """Of what decides the cost."""
    minutes: float | None
    """Of a whole run; None if it does not fit."""
    memory_gb: float | None
    """At the peak."""
    problem: str = ""


@dataclass(frozen=True)
class Costs:
    """What the sweep will take on this machine, one run at a time."""

    cheapest: Corner
    dearest: Corner
    unfit: list[Corner]
    """Corners that will not fit this machine."""
    hours: tuple[float, float] | None
    """Of the whole sweep if every run were the cheapest, or the dearest; None if it never ends."""
    free_gb: float

    def lines(self) -> Iterator[str]:
        """For people."""
        corners = {"cheapest": self.cheapest, "dearest": self.dearest}
        if self.cheapest.settings == self.dearest.settings:
            corners = {"every": self.cheapest}
        for name, corner in corners.items():
            where = ", ".join(f"{key} {value}" for key, value in corner.settings.items())
            if corner.minutes is None:
                yield f"{name} run ({where}): {corner.problem}"
            else:
                yield (
                    f"{name} run ({where}): about {_time(corner.minutes)}, "
                    f"{corner.memory_gb:.1f} GB at the peak"
                )
        if self.hours is not None:
            low, high = (60 * hours for hours in self.hours)
            between = f"between {_time(low)} and {_time(high)}" if high > low else _time(low)
            yield f"the sweep, one run at a time: {between}, less what is stopped early"
        for corner in self.unfit:
            where = ", ".join(f"{key} {value}" for key, value in corner.settings.items())
            needs = f"it needs about {corner.memory_gb:.0f} GB of {self.free_gb:.0f}"
            yield f"will not fit this machine: {where}: {needs}"


def measure_costs(points: Points, data: str, device: str) -> Costs:
    """Try the corners of `points` on the text `data` (`built-in` for the one that Python carries).

    Raises:
        DataError: The text cannot be read.
    """
    from fundamentallm.text import read_text

    text = read_text(None if data == "built-in" else data)  # bad input ends here
    free = free_gb()
    corners = sorted(_corners(points), key=lambda settings: _work(settings, text.length))
    cheapest = _try(corners[0], data, device, free)
    dearest = _try(corners[-1], data, device, free) if len(corners) > 1 else cheapest
    unfit = [dearest] if dearest.minutes is None and dearest.memory_gb else []
    if unfit:
        heavy = sorted(corners[:-1], key=_memory_gb, reverse=True)[: MOST_SHOWN - 1]
        unfit += [
            Corner(settings, None, _memory_gb(settings))
            for settings in heavy
            if _memory_gb(settings) > ROOM * free and not _has_gpu()
        ]
    runs, _ = size(points)
    hours = None
    if runs is not None and cheapest.minutes is not None and dearest.minutes is not None:
        hours = (runs * cheapest.minutes / 60, runs * dearest.minutes / 60)
    return Costs(_shown(cheapest), _shown(dearest), [_shown(c) for c in unfit], hours, free)


def _corners(points: Points) -> list[dict[str, Any]]:
    """Every combination of extremes of what decides the cost, that can be a run."""
    axes: dict[str, Sequence[Any]] = {}
    for parameter in points.sweep.parameters:
        name = hyperparameter_name(parameter)
        if name in (*DEAR, *LENGTH):
            values = [HYPERPARAMETERS[name].parse(value) for value in extremes(parameter)]
            axes[name] = sorted({min(values), max(values)})  # pyright: ignore
        elif name != DATA:
            values = [HYPERPARAMETERS[name].parse(value) for value in extremes(parameter)]
            axes[name] = values if name == "num_heads" else values[:1]
    found: dict[str, dict[str, Any]] = {}
    for values in product(*axes.values()):
        settings = {**points.fixed, **dict(zip(axes, values, strict=True))}
        key = repr([settings.get(name) for name in (*DEAR, *LENGTH)])
        if key not in found and _is_possible(settings):
            found[key] = settings
    return list(found.values())


def _is_possible(settings: dict[str, Any]) -> bool:
    from fundamentallm.declaration import ConfigError

    try:
        Config(**settings)
    except ConfigError:
        return False
    return True


def _work(settings: dict[str, Any], characters: int) -> float:
    """Multiplications of a whole run, near enough to compare."""
    config = Config(**settings)
    tokens = config.epochs * characters
    if config.max_steps:
        step = config.batch_size * config.gradient_accumulation * config.max_seq_len
        tokens = min(tokens, config.max_steps * step)
    width, depth = config.model_dim, config.num_layers
    return tokens * depth * (12 * width**2 + 2 * config.max_seq_len * width)


def _memory_gb(settings: dict[str, Any]) -> float:
    """Of a step: what every layer keeps for the way back, and weights four times."""
    config = Config(**settings)
    sequences = sequences_at_once(config, on_cpu=not _has_gpu())
    tokens = sequences * config.max_seq_len
    kept = 4 * tokens * config.num_layers * config.model_dim * 16
    return (kept + 16 * 12 * config.num_layers * config.model_dim**2) / 1e9


def _try(settings: dict[str, Any], data: str, device: str, free: float) -> Corner:
    """Some steps in a process of its own, unless it could not fit by far."""
    needed = _memory_gb(settings)
    if device in ("auto", "cpu") and not _has_gpu() and needed > HOPELESS * free:
        return Corner(settings, None, needed, f"does not fit: it needs about {needed:.0f} GB")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_steps, args=(theirs, settings, data, device), daemon=True)
    child.start()
    theirs.close()
    try:
        answer: Any = ours.recv() if ours.poll(SECONDS) else "slow"
    except EOFError:
        answer = "killed"
    child.kill()
    child.join()
    if answer == "slow":
        return Corner(settings, None, None, f"a few steps take more than {SECONDS} s")
    if isinstance(answer, str):
        why = "its memory was not enough" if answer == "killed" else answer
        return Corner(settings, None, needed, f"does not fit: {why}")
    minutes, memory, on_gpu = answer
    if not on_gpu and memory > ROOM * free:
        return Corner(settings, None, memory, f"does not fit: it needs {memory:.0f} GB")
    return Corner(settings, minutes, memory)


def _steps(pipe: Connection, settings: dict[str, Any], data: str, device: str) -> None:
    """In the child: minutes of a whole run and its peak memory, or why not."""
    import time

    import torch

    from fundamentallm.data import prepare, training_batch
    from fundamentallm.device import peak_memory_gb, pick_device
    from fundamentallm.learner import Learner
    from fundamentallm.plan import Plan
    from fundamentallm.text import read_text

    whole = Config(**settings)
    text = read_text(None if data == "built-in" else data)
    dataset = prepare(text, whole)
    where = pick_device(device)
    plan = Plan(whole, dataset.batches_per_epoch(whole))
    on_gpu = where.type == "cuda"
    count = whole.batch_size
    if where.type == "cpu":  # no step works through more at once, and its time grows evenly
        at_once = sequences_at_once(whole, on_cpu=True)
        count = min(count, math.ceil(_few(whole) / at_once) * at_once)
    part = Config(**{**settings, "batch_size": count, "gradient_accumulation": 1})
    try:
        learner = Learner(len(dataset.vocabulary), part, where)
        learner.step(training_batch(dataset.train, part, 0), plan.learning_rate(0))
        began = time.perf_counter()
        for step in range(1, STEPS + 1):
            windows = training_batch(dataset.train, part, step)
            loss, _ = learner.step(windows, plan.learning_rate(step))
            loss.item()
        seconds = (time.perf_counter() - began) / STEPS
        memory = peak_memory_gb(where)
    except torch.OutOfMemoryError as error:
        pipe.send(" ".join(str(error).split())[:120])
        return
    per_step = seconds * whole.batch_size / count * whole.gradient_accumulation
    scorings = sum(plan.evaluates_after(step) for step in range(1, min(plan.total_steps, 10_000)))
    scorings = scorings * max(1.0, plan.total_steps / 10_000) + 1
    tokens = whole.batch_size * whole.max_seq_len * whole.gradient_accumulation
    scoring = per_step / 3 * len(dataset.val) / tokens  # forward alone is a third of a step
    minutes = (plan.total_steps * per_step + scorings * scoring) / 60
    pipe.send((minutes, memory, on_gpu))


def _few(config: Config) -> int:
    """Sequences a step that take long enough to measure, and not too long."""
    work = config.num_layers * config.model_dim**2 * config.max_seq_len
    return max(2, min(config.batch_size, math.ceil(4e9 / work)))


def _has_gpu() -> bool:
    from fundamentallm.machine import visible_gpus

    return bool(visible_gpus("auto"))


def _shown(corner: Corner) -> Corner:
    names = (*DEAR, *LENGTH)
    settings = {name: corner.settings[name] for name in names if name in corner.settings}
    return Corner(settings, corner.minutes, corner.memory_gb, corner.problem)


def _time(minutes: float) -> str:
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
