"""What a sweep will cost here, by real parts of its cheapest and its dearest run.

They are tried as the sweep would start them (`probe.py`): as many at a time, with as many threads
each. The time of what lies between the two is guessed by its multiplications.
"""

from __future__ import annotations

import heapq
import math
import shutil
import tempfile
from collections import ChainMap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import Any

from fundamentallm.config.fields import ConfigError, Hyperparameter
from fundamentallm.config.hyperparameters import CONSTRAINED, HYPERPARAMETERS, Config
from fundamentallm.config.parsing import DATA
from fundamentallm.machine.cores_and_memory import free_gb
from fundamentallm.sweep.check.probe import probe
from fundamentallm.sweep.check.warnings import extremes, size
from fundamentallm.sweep.engine.concurrency import FIRST_ROW_SECONDS, Resources, fitting
from fundamentallm.sweep.engine.job import Job, TextSource
from fundamentallm.sweep.engine.trial_process import ForkServer
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.search.base import Grid, RandomSearch
from fundamentallm.sweep.search.space import SearchSpace, fits, hyperparameter_name
from fundamentallm.training.plan import sequences_at_once

DEAR = ("model_dim", "num_layers", "max_seq_len", "batch_size", "gradient_accumulation")
LENGTH = ("epochs", "max_steps")
NEAR = 64  # values at each end of a range, of which some can be a run's
ROOM = 0.9  # of the memory that is free
HOPELESS = 2  # times what is free
MOST_SHOWN = 6
MOST_TIMED = 500  # points of a sweep whose times are added up
REPORT_GB = 0.006  # the report, which holds plotly, and the runs' storage
A_TRIAL = 0.3  # seconds from one trial's end to the next one's beginning


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
    at_least: bool = False
    """Whether `minutes` is a bound: not one step was over in the time that there was."""
    disk_gb: float = 0.0
    """Of its folder."""
    first_row: float = 0.0
    """Seconds until it says something."""


@dataclass(frozen=True)
class Costs:
    """What the sweep will take on this machine."""

    cheapest: Corner
    dearest: Corner
    unfit: list[Corner]
    """Corners that will not fit this machine."""
    hours: tuple[float, float] | None
    """Of the whole sweep if every run were the cheapest, or the dearest; None if it never ends."""
    expected_hours: float | None
    """Of its own runs: those of the grid, or as many as are drawn at random."""
    workers: int
    """Runs at a time."""
    threads: int
    """Of each."""
    disk_gb: float | None
    """Of all runs; None if they never end."""
    free_disk_gb: float
    free_gb: float
    stops_early: bool
    """Whether some runs may end before their last step."""

    @property
    def known(self) -> bool:
        """Whether the cheapest and the dearest run could be tried, and all of it fits."""
        corners = (self.cheapest, self.dearest)
        room = self.disk_gb is None or self.disk_gb < self.free_disk_gb
        return room and all(c.minutes is not None and not c.at_least for c in corners)

    def lines(self) -> Iterator[str]:
        """For people."""
        corners = {"cheapest": self.cheapest, "dearest": self.dearest}
        if self.cheapest.settings == self.dearest.settings:
            corners = {"every": self.cheapest}
        for name, corner in corners.items():
            where = _named(corner)
            if corner.minutes is None:
                yield f"{name} run ({where}): {corner.problem}"
            else:
                about = "more than" if corner.at_least else "about"
                memory = f", {corner.memory_gb:.1f} GB at the peak" if corner.memory_gb else ""
                yield f"{name} run ({where}): {about} {_time(corner.minutes)}{memory}"
        if self.hours is not None:
            yield self._of_the_sweep(*self.hours)
        if self.disk_gb is not None:
            short = ", which is not enough" if self.disk_gb >= self.free_disk_gb else ""
            yield (
                f"on disk: about {_size(self.disk_gb)}; {_size(self.free_disk_gb)} are free{short}"
            )
        for corner in self.unfit:
            needs = f"it needs about {corner.memory_gb:.0f} GB of {self.free_gb:.0f}"
            yield f"will not fit this machine: {_named(corner)}: {needs}"

    def _of_the_sweep(self, low: float, high: float) -> str:
        runs = "1 run" if self.workers == 1 else f"{self.workers} runs"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        start = f"the sweep, {runs} at a time with {threads} each: "
        if self.expected_hours is None:
            return f"{start}more than {_time(60 * low)}"
        early = ", less what is stopped early" if self.stops_early else ""
        about = f"{start}about {_time(60 * self.expected_hours)}{early}"
        if low == high:
            return about
        ends = f"{_time(60 * low)} if every run were the cheapest, {_time(60 * high)} the dearest"
        return f"{about} ({ends})"


def measure_costs(points: SearchSpace, data: str, means: Resources) -> Costs | None:
    """Try the corners of `points` on the text `data` (`built-in` for the one that Python carries).

    None if no point can be a run.

    Args:
        points: The sweep.
        data: Where the text lies.
        means: What the sweep would have of this machine.

    Raises:
        DataError: The text cannot be read.
    """
    from fundamentallm.data.text import read_text

    text = read_text(data)  # bad input ends here
    tried = sorted(corners(points), key=lambda settings: _work(settings, text.length))
    if not tried:
        return None
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(TextSource(data, text.name, text.sha256), means, Path(folder))
        # The dearest first, and alone, as the sweep begins: memory decides how many there can be.
        dearest = bench.corner(tried[-1], 1)
        start = bench.started
        at_once = _at_once(means, dearest, bench.free)
        if at_once > 1 and dearest.minutes is not None and not dearest.at_least:
            dearest = bench.corner(tried[-1], at_once)
        cheapest = bench.corner(tried[0], at_once) if len(tried) > 1 else dearest
    runs, _ = size(points)
    hours = expected = disk = None
    if runs is not None and cheapest.minutes is not None and dearest.minutes is not None:
        first = 0.0 if means.fixed else min(FIRST_ROW_SECONDS, dearest.first_row)
        lead = start + first * (1 - 1 / at_once)  # the others wait for the first one's first row

        def whole(seconds: list[float]) -> float:
            return (lead + wall_clock(seconds, at_once, runs)) / 3600

        ends = 60 * cheapest.minutes, 60 * dearest.minutes
        hours = whole([ends[0]]), whole([ends[1]])
        disk = runs * max(cheapest.disk_gb, dearest.disk_gb)
        if not (cheapest.at_least or dearest.at_least):
            work = [_work(settings, text.length) for settings in _timed(points, runs)]
            base = _work(tried[0], text.length), _work(tried[-1], text.length)
            expected = whole([_between(each, base, ends) for each in work])
            folders = cheapest.disk_gb, dearest.disk_gb
            disk = (
                runs * sum(_between(each, base, folders) for each in work) / len(work) + REPORT_GB
            )
    return Costs(
        _shown(cheapest),
        _shown(dearest),
        [_shown(corner) for corner in _unfit(dearest, tried, bench.free)],
        hours,
        expected,
        workers=at_once,
        threads=means.threads,
        disk_gb=disk,
        free_disk_gb=shutil.disk_usage(".").free / 1e9,
        free_gb=bench.free,
        stops_early=points.sweep.hyperband is not None
        or (points.sweep.metric is not None and points.sweep.metric.target is not None)
        or any(settings.get("early_stopping") for settings in tried),
    )


class _Bench:
    """Where corners are tried: on one text, with what the sweep would have."""

    def __init__(self, data: TextSource, means: Resources, folder: Path) -> None:
        self.data, self.means, self.folder = data, means, folder
        self.free = free_gb()
        self.server = ForkServer(threads=means.threads)
        self.started = 0.0
        """Seconds until the first process could begin."""

    def corner(self, settings: dict[str, Any], count: int) -> Corner:
        """Try `count` runs at the same time, unless one could not fit by far."""
        needed, on_gpu = _memory_gb(settings), bool(self.means.gpus)
        if not on_gpu and needed > HOPELESS * self.free:
            return Corner(settings, None, needed, f"does not fit: it needs about {needed:.0f} GB")
        probes = probe(self.server, [self._order(settings, slot) for slot in range(count)])
        self.started = self.started or max(each.started for each in probes)
        for each in probes:
            if each.problem is not None:
                memory = needed if each.problem.no_memory else None
                return Corner(settings, None, memory, each.problem.message)
        found = [each.estimate() for each in probes]
        memory = max(each.memory_gb for each in found)
        if not on_gpu and memory > ROOM * self.free:
            return Corner(settings, None, memory, f"does not fit: it needs {memory:.0f} GB")
        seconds = sum(each.seconds for each in found) / len(found)
        return Corner(
            settings,
            seconds / 60,
            memory,
            at_least=any(each.at_least for each in found),
            disk_gb=found[0].disk_gb,
            first_row=max(each.first_row for each in found),
        )

    def _order(self, settings: dict[str, Any], slot: int) -> Job:
        path, name, sha256 = self.data.text(None)
        gpus = self.means.gpus
        return Job(
            folder=self.folder,
            settings=settings,
            data=path,
            data_name=name,
            data_sha256=sha256,
            tokens=self.folder / "tokens",
            threads=self.means.threads,
            device=self.means.device.partition(":")[0] if gpus else self.means.device,
            visible_gpu=gpus[slot % len(gpus)] if gpus else None,
            patience=0.0,
        )


def _at_once(means: Resources, dearest: Corner, free: float) -> int:
    """How many runs the sweep will have side by side."""
    if means.fixed or means.workers == 1:
        return means.workers
    if means.gpus:  # more are added where that pays, which nothing but the sweep shows
        return min(means.workers, len(means.gpus))
    return fitting(dearest.memory_gb or 0.0, free, means.workers)


def wall_clock(seconds: Sequence[float], at_once: int, runs: int) -> float:
    """Seconds until all runs are over, which take `seconds` in turn."""
    ends = [0.0] * at_once
    for index in range(min(runs, MOST_TIMED)):
        heapq.heapreplace(ends, ends[0] + A_TRIAL + seconds[index % len(seconds)])
    return max(ends) * max(1.0, runs / MOST_TIMED)


def _between(work: float, base: tuple[float, float], known: tuple[float, float]) -> float:
    """Seconds, or bytes, of a run of so much work, between two of which they are `known`."""
    (least, most), (low, high) = base, known
    if most <= least or low <= 0 or high <= 0:
        return high
    share = math.log(work / least) / math.log(most / least)
    return low * (high / low) ** share


def _timed(points: SearchSpace, runs: int) -> list[dict[str, Any]]:
    """Settings of so many runs of the sweep, or of fewer that stand for them."""
    sweep, few = points.sweep, min(runs, MOST_TIMED)
    if sweep.method == "grid":
        possible = filter(points.is_possible, Grid(sweep.parameters))
        every = list(islice(possible, runs))
        values = [every[index * len(every) // few] for index in range(few)] if every else []
    else:
        search = RandomSearch(sweep.parameters, seed=0, is_possible=points.is_possible)
        values = [each for k in range(few) if (each := search.suggest(k, [])) is not None]
    settings = [points.settings(each) for each in values]
    return [{name: s[name] for name in s if name != DATA} for s in settings]


def _unfit(dearest: Corner, tried: Sequence[dict[str, Any]], free: float) -> list[Corner]:
    """The dearest and the largest others, if memory is not enough."""
    if dearest.minutes is not None or not dearest.memory_gb:
        return []
    heavy = sorted(tried[:-1], key=_memory_gb, reverse=True)[: MOST_SHOWN - 1]
    return [dearest] + [
        Corner(settings, None, _memory_gb(settings))
        for settings in heavy
        if _memory_gb(settings) > ROOM * free and not _has_gpu()
    ]


def corners(points: SearchSpace) -> list[dict[str, Any]]:
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


def _has_gpu() -> bool:
    from fundamentallm.machine.gpus import visible_gpus

    return bool(visible_gpus("auto"))


def _shown(corner: Corner) -> Corner:
    names = (*DEAR, *LENGTH)
    settings = {name: corner.settings[name] for name in names if name in corner.settings}
    return replace(corner, settings=settings)


def _named(corner: Corner) -> str:
    return ", ".join(f"{key} {value}" for key, value in corner.settings.items())


def _time(minutes: float) -> str:
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    digits = 1 if minutes < 10 else 0
    return f"{minutes:.{digits}f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _size(gigabytes: float) -> str:
    return f"{gigabytes:.1f} GB" if gigabytes >= 1 else f"{1000 * gigabytes:.0f} MB"
