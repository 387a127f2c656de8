"""Cost of a sweep on this machine, measured on parts of its cheapest and its dearest run.

`probe.py` runs them as the sweep would: as many at a time, with as many threads each. The time of
other runs is interpolated by their multiplications.
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

from fundamentallm.config.fields import ConfigError
from fundamentallm.config.hyperparameters import HYPERPARAMETERS, Config
from fundamentallm.config.parsing import DATA
from fundamentallm.machine.cores_and_memory import free_each_gb, free_gb
from fundamentallm.metrics import duration_text, runs_text, size_text
from fundamentallm.sweep.check.probe import Effort, job_to_measure, probe
from fundamentallm.sweep.check.warnings import extremes, size
from fundamentallm.sweep.engine.concurrency import FIRST_ROW_SECONDS, Resources, fitting
from fundamentallm.sweep.engine.trainer_job import TextSource
from fundamentallm.sweep.engine.trial_process import ForkServer
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.search.base import Grid, RandomSearch
from fundamentallm.sweep.search.space import SearchSpace, fits, hyperparameter_name, spread
from fundamentallm.training.plan import sequences_at_once
from fundamentallm.training.step_work import step_work

COST_PARAMETERS = ("model_dim", "num_layers", "max_seq_len", "batch_size", "gradient_accumulation")
LENGTH_PARAMETERS = ("epochs", "max_steps")
EFFORT = Effort()
"""Effort for each extreme of the sweep."""
A_TEXT = 1_000_000
"""Characters of a text, to compare the work of settings."""
VALUES_PER_END = 64
"""Values at each end of a range, to find one that is possible."""
MEMORY_SHARE = 0.9
"""Share of the free memory that a run may use."""
HOPELESS_FACTOR = 2
"""Estimated memory, relative to the free memory, above which a run is not tried."""
MOST_SHOWN = 6
MOST_TIMED = 500
"""Most configurations whose times are added up."""
REPORT_GB = 0.006
"""Size of the report, which contains plotly, and of the storage."""
LEAST_SHARE = 0.9
"""Share of the disk space below which that of `--keep best` is worth telling."""
START_SECONDS = 0.3
"""Time from the end of a trial to the start of the next."""


@dataclass(frozen=True)
class Corner:
    """One extreme of the sweep, as measured."""

    settings: dict[str, Any]
    """Settings that determine the cost."""
    minutes: float | None
    """Time of a whole run; None, with a `problem`, if it is unknown."""
    memory_gb: float | None
    """Peak memory."""
    problem: str = ""
    at_least: bool = False
    """True if `minutes` is a lower bound: no step ended in time."""
    disk_gb: float = 0.0
    """Size of the run's folder."""
    checkpoints_gb: float = 0.0
    """Part of it that its checkpoints take."""
    first_row: float = 0.0
    """Seconds until its first row."""


@dataclass(frozen=True)
class Costs:
    """Cost of the sweep on this machine."""

    cheapest: Corner
    dearest: Corner
    unfit: list[Corner]
    """Extremes that do not fit this machine."""
    hours: tuple[float, float] | None
    """Time of the sweep if every run were the cheapest, or the dearest; None if it never ends."""
    expected_hours: float | None
    """Expected time: all runs of the grid, or as many random ones."""
    workers: int
    """Number of runs at a time."""
    threads: int
    """Threads of each run."""
    disk_gb: float | None
    """Size of all runs; None if the sweep never ends."""
    least_disk_gb: float | None
    """The same if only the best configurations keep their checkpoints."""
    free_disk_gb: float
    free_gb: float
    stops_early: bool
    """True if some runs may end before their last step."""

    @property
    def known(self) -> bool:
        """Return whether both extremes were measured and everything fits."""
        corners = (self.cheapest, self.dearest)
        room = self.disk_gb is None or self.disk_gb < self.free_disk_gb
        return room and all(c.minutes is not None and not c.at_least for c in corners)

    def lines(self) -> Iterator[str]:
        """Yield the lines to display."""
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
                yield f"{name} run ({where}): {about} {duration_text(60 * corner.minutes)}{memory}"
        if self.hours is not None:
            yield self._of_the_sweep(*self.hours)
        if self.disk_gb is not None:
            short = ", which is not enough" if self.disk_gb >= self.free_disk_gb else ""
            free = size_text(1e9 * self.free_disk_gb)
            least = ""
            if self.least_disk_gb is not None and self.least_disk_gb < LEAST_SHARE * self.disk_gb:
                least = f" (with --keep best {size_text(1e9 * self.least_disk_gb)})"
            size = size_text(1e9 * self.disk_gb)
            yield f"on disk: about {size}{least}; {free} are free{short}"
        for corner in self.unfit:
            needs = f"it needs about {corner.memory_gb:.0f} GB of {self.free_gb:.0f}"
            yield f"will not fit this machine: {_named(corner)}: {needs}"

    def _of_the_sweep(self, low: float, high: float) -> str:
        runs = runs_text(self.workers)
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        start = f"the sweep, {runs} at a time with {threads} each: "
        if self.expected_hours is None:
            return f"{start}more than {duration_text(3600 * low)}"
        early = ", less if runs stop early" if self.stops_early else ""
        about = f"{start}about {duration_text(3600 * self.expected_hours)}{early}"
        if low == high:
            return about
        least, most = duration_text(3600 * low), duration_text(3600 * high)
        ends = f"{least} if every run were the cheapest, {most} the dearest"
        return f"{about} ({ends})"


def measure_costs(
    space: SearchSpace, data: str, resources: Resources, *, kept: int = 0
) -> Costs | None:
    """Measure the extremes of a sweep on a text; None if no configuration is possible.

    Args:
        space: Search space of the sweep.
        data: Path of the text, or `built-in`.
        resources: Part of this machine that the sweep would use.
        kept: Runs that keep their checkpoints with `--keep best`.

    Raises:
        DataError: The text cannot be read.
    """
    from fundamentallm.data.text import read_text

    text = read_text(data)  # raises for bad input before the long work
    tried = sorted(corners(space), key=lambda settings: _work(settings, text.length))
    if not tried:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source = TextSource(data, text.name, text.sha256)
        bench = _Bench(source, text.length, resources, Path(folder))
        # The dearest first, and alone, as in the sweep: memory limits the number at a time.
        dearest = bench.corner(tried[-1], 1)
        start = bench.started
        at_once = _at_once(resources, dearest, bench.free)
        if at_once > 1 and dearest.minutes is not None and not dearest.at_least:
            dearest = bench.corner(tried[-1], at_once)
        cheapest = bench.corner(tried[0], at_once) if len(tried) > 1 else dearest
    runs, _ = size(space)
    hours = expected = disk = least_disk = None
    if runs is not None and cheapest.minutes is not None and dearest.minutes is not None:
        first = 0.0 if resources.fixed else min(FIRST_ROW_SECONDS, dearest.first_row)
        lead = start + first * (1 - 1 / at_once)  # the others wait for the first run's first row

        def whole(seconds: list[float]) -> float:
            return (lead + wall_clock(seconds, at_once, runs)) / 3600

        ends = 60 * cheapest.minutes, 60 * dearest.minutes
        hours = whole([ends[0]]), whole([ends[1]])
        disk = runs * max(cheapest.disk_gb, dearest.disk_gb)
        if not (cheapest.at_least or dearest.at_least):
            work = [_work(settings, text.length) for settings in _timed(space, runs)]
            base = _work(tried[0], text.length), _work(tried[-1], text.length)
            expected = whole([_between(each, base, ends) for each in work])
            folders = cheapest.disk_gb, dearest.disk_gb
            disk = (
                runs * sum(_between(each, base, folders) for each in work) / len(work) + REPORT_GB
            )
        share = dearest.checkpoints_gb / dearest.disk_gb if dearest.disk_gb else 0.0
        least_disk = disk * (1 - share * max(0.0, 1 - kept / runs)) if runs else disk
    return Costs(
        _shown(cheapest),
        _shown(dearest),
        [_shown(corner) for corner in _unfit(dearest, tried, bench.free_each)],
        hours,
        expected,
        workers=at_once,
        threads=resources.threads,
        disk_gb=disk,
        least_disk_gb=least_disk,
        free_disk_gb=shutil.disk_usage(".").free / 1e9,
        free_gb=bench.free_each,
        stops_early=space.sweep.hyperband is not None
        or (space.sweep.metric is not None and space.sweep.metric.target is not None)
        or any(settings.get("early_stopping") for settings in tried),
    )


class _Bench:
    """Measures extremes on one text, with the resources of the sweep."""

    def __init__(
        self, data: TextSource, characters: int, resources: Resources, folder: Path
    ) -> None:
        self.data, self.characters = data, characters
        self.resources, self.folder = resources, folder
        self.free, self.free_each = free_gb(), free_each_gb()
        self.server = ForkServer(threads=resources.threads)
        self.started = 0.0
        """Seconds until the first process started."""

    def corner(self, settings: dict[str, Any], count: int) -> Corner:
        """Measure `count` runs at the same time, unless memory is far too small for one."""
        needed, on_gpu = _memory_gb(settings), bool(self.resources.gpus)
        if not on_gpu and needed > HOPELESS_FACTOR * self.free_each:
            return Corner(settings, None, needed, f"does not fit: it needs about {needed:.0f} GB")
        jobs = [
            job_to_measure(
                settings,
                self.data,
                self.resources,
                slot=slot,
                folder=self.folder,
                tokens=self.folder / "tokens",
            )
            for slot in range(count)
        ]
        probes = probe(self.server, jobs, replace(EFFORT, characters=self.characters))
        self.started = self.started or max(each.started for each in probes)
        for each in probes:
            if each.problem is not None:
                memory = needed if each.problem.no_memory else None
                return Corner(settings, None, memory, each.problem.message)
        found = [each.estimate() for each in probes]
        memory = max(each.memory_gb for each in found)
        if not on_gpu and memory > MEMORY_SHARE * self.free_each:
            return Corner(settings, None, memory, f"does not fit: it needs {memory:.0f} GB")
        seconds = sum(each.seconds for each in found) / len(found)
        return Corner(
            settings,
            seconds / 60,
            memory,
            at_least=any(each.at_least for each in found),
            disk_gb=found[0].disk_gb,
            checkpoints_gb=found[0].checkpoints_gb,
            first_row=max(each.first_row for each in found),
        )


def _at_once(resources: Resources, dearest: Corner, free: float) -> int:
    """Return how many runs the sweep will have at a time."""
    if resources.fixed or resources.workers == 1:
        return resources.workers
    if resources.gpus:  # only the sweep itself shows whether more pay
        return min(resources.workers, len(resources.gpus))
    return fitting(dearest.memory_gb or 0.0, free, resources.workers)


def wall_clock(seconds: Sequence[float], at_once: int, runs: int) -> float:
    """Return the seconds for all runs, which take `seconds` in turn."""
    ends = [0.0] * at_once
    for index in range(min(runs, MOST_TIMED)):
        heapq.heapreplace(ends, ends[0] + START_SECONDS + seconds[index % len(seconds)])
    return max(ends) * max(1.0, runs / MOST_TIMED)


def _between(work: float, base: tuple[float, float], known: tuple[float, float]) -> float:
    """Interpolate the time or size of a run by its work, between two `known` ones."""
    (least, most), (low, high) = base, known
    if most <= least or low <= 0 or high <= 0:
        return high
    share = math.log(work / least) / math.log(most / least)
    return low * (high / low) ** share


def _timed(space: SearchSpace, runs: int) -> list[dict[str, Any]]:
    """Return settings of `runs` runs of the sweep, or of a sample of them."""
    sweep, few = space.sweep, min(runs, MOST_TIMED)
    if sweep.method == "grid":
        possible = filter(space.is_possible, Grid(sweep.parameters))
        every = list(islice(possible, runs))
        values = [every[index * len(every) // few] for index in range(few)] if every else []
    else:
        search = RandomSearch(sweep.parameters, seed=0, is_possible=space.is_possible)
        values = [each for k in range(few) if (each := search.suggest(k, [])) is not None]
    settings = [space.settings(each) for each in values]
    return [{name: s[name] for name in s if name != DATA} for s in settings]


def _unfit(dearest: Corner, tried: Sequence[dict[str, Any]], free: float) -> list[Corner]:
    """Return the dearest and the largest other extremes, if memory is too small."""
    if dearest.minutes is not None or not dearest.memory_gb:
        return []
    heavy = sorted(tried[:-1], key=_memory_gb, reverse=True)[: MOST_SHOWN - 1]
    return [dearest] + [
        Corner(settings, None, _memory_gb(settings))
        for settings in heavy
        if _memory_gb(settings) > MEMORY_SHARE * free and not _has_gpu()
    ]


def corners(space: SearchSpace) -> list[dict[str, Any]]:
    """Return all possible combinations of the extremes of the settings that determine the cost."""
    groups = space.constrained()
    grouped = {parameter.name for _, swept in groups for parameter in swept}
    alone = [[parameter] for parameter in space.sweep.parameters if parameter.name not in grouped]
    choices: list[list[dict[str, Any]]] = []
    for swept in (*(swept for _, swept in groups), *alone):
        axes = [list(_settings(each)) for each in swept if hyperparameter_name(each) != DATA]
        combined = [dict(ChainMap(*reversed(each))) for each in product(*axes)]
        possible = [each for each in combined if fits({**space.fixed, **each})]
        choices.append(_extremes(space, possible))
    return [dict(space.fixed) | dict(ChainMap(*each)) for each in product(*choices)]


def _settings(parameter: Parameter) -> Iterator[dict[str, Any]]:
    """Yield the possible settings of a parameter that may be extremes."""
    for value in _candidates(parameter):
        with suppress(ConfigError):  # a normal distribution may exceed a hyperparameter's range
            given = spread(parameter, value).items()
            yield {name: HYPERPARAMETERS[name].parse(each) for name, each in given}


def _candidates(parameter: Parameter) -> Sequence[Any]:
    """Return values that may be extremes: all of a list, several near the ends of a range."""
    values = parameter.distribution.grid()
    at_ends = (
        []
        if values is None
        else [
            *values[:VALUES_PER_END],
            *values[max(VALUES_PER_END, len(values) - VALUES_PER_END) :],
        ]
    )
    return [*at_ends, *extremes(parameter)]


def _extremes(space: SearchSpace, partial: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the settings with the least and the largest cost; any one if cost does not differ."""
    names = {name for each in partial for name in each}
    decisive = names & {*COST_PARAMETERS, *LENGTH_PARAMETERS}
    if not decisive:
        return partial[:1]

    def cost(settings: dict[str, Any]) -> float:
        if len(decisive) == 1:  # not all of them change the work
            (name,) = decisive
            return settings.get(name, space.fixed.get(name, HYPERPARAMETERS[name].default))
        return _work({**space.fixed, **settings}, A_TEXT)

    partial = sorted(partial, key=cost)
    ends = [*partial[:1], *partial[-1:]]
    return ends[:1] if ends and cost(ends[0]) == cost(ends[-1]) else ends


def _work(settings: dict[str, Any], characters: int) -> float:
    """Estimate the multiplications of a whole run."""
    config = Config(**settings)
    steps = config.epochs * characters / config.tokens_per_step
    if config.max_steps:
        steps = min(steps, config.max_steps)
    work = step_work(config, vocabulary=0)
    return steps * (work.multiplications + work.orthogonalizing)


def _memory_gb(settings: dict[str, Any]) -> float:
    """Estimate the memory of a step: activations of every layer, and weights four times."""
    config = Config(**settings)
    sequences = sequences_at_once(config, on_cpu=not _has_gpu())
    tokens = sequences * config.max_seq_len
    kept = 4 * tokens * config.num_layers * config.model_dim * 16
    return (kept + 16 * 12 * config.num_layers * config.model_dim**2) / 1e9


def _has_gpu() -> bool:
    from fundamentallm.machine.gpus import visible_gpus

    return bool(visible_gpus("auto"))


def _shown(corner: Corner) -> Corner:
    names = (*COST_PARAMETERS, *LENGTH_PARAMETERS)
    settings = {name: corner.settings[name] for name in names if name in corner.settings}
    return replace(corner, settings=settings)


def _named(corner: Corner) -> str:
    return ", ".join(f"{key} {value}" for key, value in corner.settings.items())
