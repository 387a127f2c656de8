"""What a sweep will cost here: some real steps of its cheapest and its dearest run.

Each is tried in a process of its own, so that one which takes all memory takes nobody along, and
with a few sequences a step where the whole batch would take too long: its time grows evenly with
them.
"""

from __future__ import annotations

import math
import multiprocessing
from collections import ChainMap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from multiprocessing.connection import Connection
from typing import Any

from fundamentallm.declaration import ConfigError, Hyperparameter
from fundamentallm.errors import FundamentallmError
from fundamentallm.hyperparameters import CONSTRAINED, HYPERPARAMETERS, Config
from fundamentallm.machine import free_gb, keep_freed_memory
from fundamentallm.plan import sequences_at_once
from fundamentallm.sweep.checking import extremes, size
from fundamentallm.sweep.parameters import Parameter
from fundamentallm.sweep.points import DATA, Points, fits, hyperparameter_name

DEAR = ("model_dim", "num_layers", "max_seq_len", "batch_size", "gradient_accumulation")
LENGTH = ("epochs", "max_steps")
SECONDS = 90  # that one corner may take
STEPS = 3
NEAR = 64  # values at each end of a range, of which some can be a run's
ROOM = 0.9  # of the memory that is free
HOPELESS = 2  # times what is free
MOST_SHOWN = 6


@dataclass(frozen=True)
class Corner:
    """One extreme of the sweep, as it was tried."""

    settings: dict[str, Any]
    """Of what decides the cost."""
    minutes: float | None
    """Of a whole run; None if that is not known, for the `problem`."""
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

    @property
    def known(self) -> bool:
        """Whether the cheapest and the dearest run could be tried, and fit."""
        return self.cheapest.minutes is not None and self.dearest.minutes is not None

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


def measure_costs(points: Points, data: str, device: str) -> Costs | None:
    """Try the corners of `points` on the text `data` (`built-in` for the one that Python carries).

    None if no point can be a run.

    Raises:
        DataError: The text cannot be read.
    """
    from fundamentallm.text import read_text

    text = read_text(data)  # bad input ends here
    free = free_gb()
    tried = sorted(corners(points), key=lambda settings: _work(settings, text.length))
    if not tried:
        return None
    cheapest = _try(tried[0], data, device, free)
    dearest = _try(tried[-1], data, device, free) if len(tried) > 1 else cheapest
    unfit = [dearest] if dearest.minutes is None and dearest.memory_gb else []
    if unfit:
        heavy = sorted(tried[:-1], key=_memory_gb, reverse=True)[: MOST_SHOWN - 1]
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


def corners(points: Points) -> list[dict[str, Any]]:
    """Every combination of extremes of what decides the cost, that can be a run."""
    axes: dict[str, list[Any]] = {}
    for parameter in points.sweep.parameters:
        name = hyperparameter_name(parameter)
        if name != DATA:
            axes[name] = list(_parsed(HYPERPARAMETERS[name], _candidates(parameter)))
    choices: list[list[dict[str, Any]]] = []
    for group in CONSTRAINED:
        names = [name for name in group if name in axes]
        fixed = {name: points.fixed[name] for name in group if name in points.fixed}
        together = _combined(names, [axes.pop(name) for name in names])
        choices.append(_extremes(names, [each for each in together if fits(fixed | each)]))
    choices += [_extremes([name], _combined([name], [values])) for name, values in axes.items()]
    return [dict(points.fixed) | dict(ChainMap(*each)) for each in product(*choices)]


def _combined(names: Sequence[str], values: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(names, each, strict=True)) for each in product(*values)]


def _candidates(parameter: Parameter) -> Sequence[Any]:
    """What may be an extreme of the possible values: all of a list, many near a range's ends."""
    values = parameter.distribution.grid()
    near = [] if values is None else [*values[:NEAR], *values[max(NEAR, len(values) - NEAR) :]]
    return [*near, *extremes(parameter)]


def _parsed(known: Hyperparameter, values: Sequence[Any]) -> Iterator[Any]:
    """Those that are possible: a normal distribution goes beyond what a share of 1 can be."""
    for value in values:
        with suppress(ConfigError):
            yield known.parse(value)


def _extremes(names: Sequence[str], partial: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of settings of `names`, the least and the largest of what decides the cost; or any one."""
    decides = next((name for name in names if name in (*DEAR, *LENGTH)), None)
    if decides is None:
        return partial[:1]
    partial = sorted(partial, key=lambda settings: settings[decides])
    ends = [*partial[:1], *partial[-1:]]
    return ends[:1] if ends and ends[0][decides] == ends[-1][decides] else ends


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
    child = context.Process(
        target=_tell, args=(theirs, settings, data, device, free, needed), daemon=True
    )
    child.start()
    theirs.close()
    try:
        if ours.poll(SECONDS):
            return ours.recv()
        return Corner(settings, None, None, f"a few steps take more than {SECONDS} s")
    except EOFError:
        return Corner(settings, None, needed, "does not fit: its memory was not enough")
    finally:
        child.kill()
        child.join()


def _tell(
    pipe: Connection, settings: dict[str, Any], data: str, device: str, free: float, needed: float
) -> None:
    """In the child: what came of it."""
    from fundamentallm.device import is_out_of_memory, pick_device, run_alone
    from fundamentallm.learner import OutOfMemoryError

    keep_freed_memory()  # as a run does
    try:
        with run_alone(Config(**settings), pick_device(device)):
            minutes, memory, on_gpu = _measured(settings, data, device)
        corner = Corner(settings, minutes, memory)
        if not on_gpu and memory > ROOM * free:
            corner = Corner(settings, None, memory, f"does not fit: it needs {memory:.0f} GB")
    except OutOfMemoryError as error:
        corner = Corner(settings, None, needed, f"does not fit: {error}")
    except FundamentallmError as error:
        corner = Corner(settings, None, None, str(error))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        corner = Corner(settings, None, needed, f"does not fit: {' '.join(str(error).split())}")
    pipe.send(corner)


def _measured(settings: dict[str, Any], data: str, device: str) -> tuple[float, float, bool]:
    """Minutes of a whole run, its peak memory in GB, and whether a GPU did it."""
    import time

    from fundamentallm.data import prepare, training_batch
    from fundamentallm.device import peak_memory_gb, pick_device
    from fundamentallm.graphs import WARM
    from fundamentallm.learner import Learner
    from fundamentallm.plan import Plan
    from fundamentallm.text import read_text

    whole = Config(**settings)
    text = read_text(data)
    dataset = prepare(text, whole)
    where = pick_device(device)
    plan = Plan(whole, dataset.batches_per_epoch(whole))
    on_gpu = where.type == "cuda"
    count = whole.batch_size
    if where.type == "cpu":  # no step works through more at once, and its time grows evenly
        at_once = sequences_at_once(whole, on_cpu=True)
        count = min(count, math.ceil(_few(whole) / at_once) * at_once)
    part = Config(**{**settings, "batch_size": count, "gradient_accumulation": 1})
    learner = Learner(len(dataset.vocabulary), part, where)
    before = WARM + 1 if on_gpu else 1  # the last of them is recorded, and what follows replayed
    for step in range(before):
        learner.step(training_batch(dataset.train, part, step), plan.learning_rate(step))
    began = time.perf_counter()
    for step in range(before, before + STEPS):
        windows = training_batch(dataset.train, part, step)
        loss, _ = learner.step(windows, plan.learning_rate(step))
        loss.item()
    seconds = (time.perf_counter() - began) / STEPS
    per_step = seconds * whole.batch_size / count * whole.gradient_accumulation
    scorings = sum(plan.evaluates_after(step) for step in range(1, min(plan.total_steps, 10_000)))
    scorings = scorings * max(1.0, plan.total_steps / 10_000) + 1
    tokens = whole.batch_size * whole.max_seq_len * whole.gradient_accumulation
    scoring = per_step / 3 * len(dataset.scored) / tokens  # forward alone is a third of a step
    minutes = (plan.total_steps * per_step + scorings * scoring) / 60
    return min(minutes, whole.max_minutes or minutes), peak_memory_gb(where), on_gpu


def _few(config: Config) -> int:
    """Sequences a step that take long enough to measure, and not too long."""
    work = config.num_layers * config.model_dim**2 * config.max_seq_len
    return max(2, min(config.batch_size, math.ceil(4e9 / work)))


def _has_gpu() -> bool:
    from fundamentallm.gpus import visible_gpus

    return bool(visible_gpus("auto"))


def _shown(corner: Corner) -> Corner:
    names = (*DEAR, *LENGTH)
    settings = {name: corner.settings[name] for name in names if name in corner.settings}
    return Corner(settings, corner.minutes, corner.memory_gb, corner.problem)


def _time(minutes: float) -> str:
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
