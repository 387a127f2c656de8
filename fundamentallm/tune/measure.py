"""Measure speed and memory of a few model shapes on this machine, and estimate those in between.

The cost of a step is a sum of parts with known growth, e.g. products of matrices by tokens and
width, or the optimizer by width alone. Measured steps say how much each part costs here.
"""

from __future__ import annotations

import json
import logging
import math
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.vocabulary import MOST_SCORED
from fundamentallm.errors import FundamentallmError
from fundamentallm.files.atomic import read_file, replace_text
from fundamentallm.machine.cores_and_memory import free_each_gb, free_gb, threads_each, usable_cores
from fundamentallm.model.size import mlp_width, parameter_count
from fundamentallm.sweep.check.cost import START_SECONDS
from fundamentallm.sweep.check.probe import Effort, Probe, job_to_measure, measured_part, probe
from fundamentallm.sweep.engine.concurrency import LEAST_SPEEDUP, MEMORY_SHARE, Resources, fitting
from fundamentallm.sweep.engine.trainer_job import TextSource
from fundamentallm.sweep.engine.trial_process import ForkServer
from fundamentallm.training.plan import sequences_at_once
from fundamentallm.training.step_work import step_work

LOG = logging.getLogger(__name__)
Numbers = NDArray[np.float64]

VERSION = 1
LARGEST_FILE = 1 << 20
"""Bytes; a measurement takes 400."""
SHAPE = ("model_dim", "num_layers", "num_heads", "max_seq_len", "batch_size")
"""Hyperparameters that determine the cost of a step."""
LEAST_SECONDS = 1.0
"""Time below which nothing is measured."""
VOCABULARY = 100
"""Tokens of a vocabulary, until it is known."""
STEP_COSTS = np.array([1.9e-11, 1.4e-8, 1.8e-11, 0.9e-3, 0.8e-3])
"""Seconds for each unit of `StepWork`, and for each step: one thread on a server of 2023."""
MEMORY_COSTS = np.array([0.106, 17e-9, 14e-9, 33e-9])
"""GB for each unit of `_room`, in float32 on a CPU."""
THREADS_EXPONENT = 0.8
"""Speed by number of threads, as a power, until it is measured."""
SCORING_SHARE = 0.35
"""Time to score a token, relative to a training step's without its optimizer."""
TRUST = 0.3
"""Weight of the costs above, relative to that of a measurement, in the ratios between them."""


@dataclass(frozen=True)
class Measurement:
    """One shape, as measured on this machine."""

    settings: Mapping[str, Any]
    """Hyperparameters in `SHAPE`; the batch may be only a part of the candidate's."""
    workers: int
    """Number of runs at a time."""
    threads: int
    """Threads of each run."""
    step_seconds: float = 0.0
    """Time of an optimizer step of one run while all work; 0 if there is a `problem`."""
    scoring_seconds: float = 0.0
    """Time of an evaluation, as training does it; 0 if it was not reached."""
    setup_seconds: float = 0.0
    """Time from the start of a trial until its first step."""
    memory_gb: float = 0.0
    """Peak memory of one run."""
    problem: str = ""
    """Reason why this shape cannot be trained, e.g. that it does not fit."""

    @property
    def config(self) -> Config:
        """The shape as a configuration."""
        return Config(**self.settings)


@dataclass(frozen=True)
class Measurements:
    """Measured shapes of models for one text on one machine."""

    machine: str
    """Processor, cores and device, in words."""
    data_sha256: str
    vocabulary: int
    """Number of different tokens."""
    scored: int
    """Validation tokens of an evaluation."""
    resources: Resources
    """Most runs at a time, and the threads of each."""
    room_gb: float
    """Memory for all runs together."""
    each_gb: float
    """Memory for one run."""
    measured: tuple[Measurement, ...] = ()

    def step_seconds(self, config: Config, workers: int) -> float:
        """Return the time of an optimizer step while `workers` runs of this shape work.

        Measured, or estimated from the shapes that were.
        """
        shape = _shape(config)
        for each in self._of(workers):
            if each.settings == shape and config.gradient_accumulation == 1:
                return each.step_seconds
        return float(_work(config, self.vocabulary) @ self._costs(workers))

    def scoring_seconds(self, config: Config, workers: int) -> float:
        """Return the time of an evaluation while `workers` runs of this shape work."""
        costs = self._costs(workers)
        return self._scoring_share * self.scored * _token_seconds(config, self.vocabulary, costs)

    @property
    def setup_seconds(self) -> float:
        """Time from the start of a trial until its first step."""
        found = [each.setup_seconds for each in self._without_problem]
        return START_SECONDS + (median(found) if found else 0.0)

    def memory_gb(self, config: Config) -> float:
        """Return the peak memory of a run."""
        shape = _shape(config)
        found = [m.memory_gb for m in self._without_problem if m.settings == shape]
        return max(found) if found else float(_room(config, self.vocabulary) @ self._memory_costs)

    def fits(self, config: Config) -> bool:
        """Return whether a run of this shape fits into memory."""
        shape = _shape(config)
        if any(m.problem and m.workers == 1 and m.settings == shape for m in self.measured):
            return False
        return self.memory_gb(config) <= self.each_gb

    def best_workers(self, config: Config) -> int:
        """Return how many runs at a time take the most steps a second in total, if they fit."""
        room = self._at_once(self.memory_gb(config), self.resources.workers)
        tried = {m.workers for m in self._without_problem} or set(_numbers_at_once(self.resources))
        speeds = {n: n / self.step_seconds(config, n) for n in sorted(min(n, room) for n in tried)}
        return max(speeds, key=speeds.__getitem__)

    def threads(self, workers: int) -> int:
        """Return the threads of each of `workers` runs."""
        return _threads(self.resources, workers)

    def _at_once(self, memory_gb: float, most: int) -> int:
        """Return how many runs of that size fit at a time, at least 1."""
        if self.resources.gpus:  # each GPU has memory of its own
            return most
        return fitting(memory_gb, self.room_gb / MEMORY_SHARE, most)

    @property
    def _without_problem(self) -> list[Measurement]:
        return [each for each in self.measured if not each.problem]

    def _of(self, workers: int) -> list[Measurement]:
        return [each for each in self._without_problem if each.workers == workers]

    def _costs(self, workers: int) -> Numbers:
        """Return the seconds for each unit of `_work`, with `workers` runs at a time."""
        known = self._fits.get(workers)
        if known is not None:
            return known
        if not self._fits:
            return STEP_COSTS / self.threads(workers) ** THREADS_EXPONENT
        near = min(self._fits, key=lambda n: (abs(math.log(n / workers)), n))
        return self._fits[near] * (self.threads(near) / self.threads(workers)) ** THREADS_EXPONENT

    @cached_property
    def _fits(self) -> Mapping[int, Numbers]:
        """Costs by number of runs at a time, for those that were measured."""
        fits: dict[int, Numbers] = {}
        for workers in sorted({m.workers for m in self._without_problem}):
            here = self._of(workers)
            work = np.array([_work(m.config, self.vocabulary) for m in here])
            fits[workers] = _fit(work, np.array([m.step_seconds for m in here]), STEP_COSTS)
        return fits

    @cached_property
    def _memory_costs(self) -> Numbers:
        found = [m for m in self._without_problem if m.memory_gb]
        if not found:
            return MEMORY_COSTS
        room = np.array([_room(m.config, self.vocabulary) for m in found])
        return _fit(room, np.array([m.memory_gb for m in found]), MEMORY_COSTS)

    @cached_property
    def _scoring_share(self) -> float:
        shares = [
            m.scoring_seconds
            / (self.scored * _token_seconds(m.config, self.vocabulary, self._costs(m.workers)))
            for m in self._without_problem
            if m.scoring_seconds
        ]
        return median(shares) if shares else SCORING_SHARE

    def save(self, path: Path) -> None:
        """Write a JSON file, whole or not at all.

        Raises:
            DiskError: The file cannot be written.
        """
        content = {"version": VERSION, **asdict(self)}
        replace_text(path, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path, data_sha256: str, resources: Resources) -> Measurements | None:
        """Load a file that `save` wrote for this text on this machine.

        Return None, and log why, if the shapes have to be measured again.
        """
        try:
            found = _parsed(json.loads(read_file(path, LARGEST_FILE, root=path.parent)))
        except FileNotFoundError:
            return None
        except OSError as error:
            LOG.warning("%s: %s; measuring again", path, error.strerror)
            return None
        except (ValueError, TypeError, KeyError, RecursionError, FundamentallmError):
            LOG.warning("%s: damaged, or from another version; measuring again", path)
            return None
        if found.data_sha256 != data_sha256:
            LOG.warning("%s: of another text; measuring again", path)
            return None
        if (found.machine, found.resources) != (_machine(resources), _plain(resources)):
            LOG.warning("%s: from another machine (%s); measuring again", path, found.machine)
            return None
        return found


def measure(
    candidates: Sequence[Mapping[str, Any]],
    data: TextSource,
    characters: int,
    resources: Resources,
    *,
    seconds: float,
    tokens: Path | None = None,
    max_memory_gb: float | None = None,
) -> Measurements:
    """Take steps of the candidates, in processes of their own, for about `seconds`.

    The first candidate that can be measured in time shows which number of runs at a time is best.
    The others are then measured with it, and with other numbers if time is left. Without any time,
    the result estimates by costs of another machine.

    Args:
        candidates: Hyperparameters of each shape, the most important first.
        data: The text.
        characters: Length of the text.
        resources: Part of this machine to use, with the most runs at a time.
        seconds: Time limit, once torch is imported and the text is encoded.
        tokens: Folder that keeps the encoded text; by default a temporary one.
        max_memory_gb: Most memory of all runs together; by default what is free.

    Raises:
        DataError: The text cannot be read, or is too short for every candidate.
        SystemLimitError: The system allows no more processes or files.
        ForkServerError: No process can be started.
    """
    configs = [Config(**settings) for settings in candidates]
    val_split = configs[0].val_split if configs else Config().val_split
    room = MEMORY_SHARE * free_gb()
    if max_memory_gb is not None:
        room = min(room, max_memory_gb)
    empty = Measurements(
        machine=_machine(resources),
        data_sha256=data.sha256,
        vocabulary=VOCABULARY,
        scored=max(1, min(MOST_SCORED, round(characters * val_split))),
        resources=_plain(resources),
        room_gb=room,
        each_gb=min(room, MEMORY_SHARE * free_each_gb()),
    )
    if seconds < LEAST_SECONDS:
        return empty
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(empty, data, characters, Path(folder), tokens or Path(folder, "tokens"))
        bench.measure(configs, seconds)
    return bench.found


class _Bench:
    """Measures shapes, and keeps what was found."""

    def __init__(
        self,
        empty: Measurements,
        data: TextSource,
        characters: int,
        folder: Path,
        tokens: Path,
    ) -> None:
        self.found, self.data, self.characters = empty, data, characters
        self.folder, self.tokens = folder, tokens
        self.server = ForkServer(threads=empty.resources.threads)

    def measure(self, configs: Sequence[Config], seconds: float) -> None:
        """Measure the most important shapes that the time allows."""
        left = seconds
        numbers = _numbers_at_once(self.found.resources)
        timed = min(1.0, seconds / (2 * len(numbers) * max(1, len(configs))))
        if not configs:
            return
        quickest = min(configs, key=lambda config: self._lasts(config, numbers[0], timed))
        in_time = (c for c in configs if self._lasts(c, numbers[0], timed) < left / len(numbers))
        first = next(in_time, quickest)
        last_speed = 0.0
        for workers in numbers:
            left -= self._measure(first, workers, left, timed)
            speed = workers / self.found.step_seconds(first, workers)
            if self.found.resources.gpus and speed < LEAST_SPEEDUP * last_speed:
                break  # more do not pay
            last_speed = speed
        best = self.found.best_workers(first)
        others = [each for each in configs if each is not first]
        for workers in sorted(numbers, key=lambda n: n != best):
            for config in others:
                if self._lasts(config, workers, timed) < left:
                    left -= self._measure(config, workers, left, timed)

    def _lasts(self, config: Config, workers: int, timed: float) -> float:
        """Estimate the time to measure a shape."""
        step = self.found.step_seconds(_part(config, self.found.resources), workers)
        return START_SECONDS + max(4.5 * step, timed + 1.5 * step)

    def _measure(self, config: Config, workers: int, seconds: float, timed: float) -> float:
        """Measure a shape if it fits; return the time that it took, without reading the text."""
        found, part = self.found, _part(config, self.found.resources)
        threads = found.threads(workers)
        memory = found.memory_gb(part)
        if memory > found.each_gb:
            why = f"needs about {memory:.1f} GB of {found.each_gb:.1f}"
            self._keep(Measurement(_shape(part), 1, found.threads(1), problem=why))
            return 0.0
        if found._at_once(memory, workers) < workers or seconds <= 0:
            return 0.0
        jobs = [
            job_to_measure(
                asdict(config),
                self.data,
                replace(found.resources, threads=threads),
                slot=slot,
                folder=self.folder,
                tokens=self.tokens,
            )
            for slot in range(workers)
        ]
        effort = Effort(seconds, timed, whole_run=False, characters=self.characters)
        started_at = time.monotonic()
        probes = probe(self.server, jobs, effort)
        measurement = _measurement(probes, _shape(part), threads)
        if measurement is not None:
            self._keep(measurement)
        for parts in (each.parts for each in probes if each.parts is not None):
            scored = max(1, round(parts.scored * part.batch_size * part.max_seq_len))
            self.found = replace(self.found, vocabulary=parts.vocabulary, scored=scored)
        return max(each.ended - (each.read_at or started_at) for each in probes)

    def _keep(self, measurement: Measurement) -> None:
        kept = {(tuple(m.settings.items()), m.workers): m for m in self.found.measured}
        kept[tuple(measurement.settings.items()), measurement.workers] = measurement
        self.found = replace(self.found, measured=tuple(kept.values()))


def _measurement(
    probes: Sequence[Probe], settings: Mapping[str, Any], threads: int
) -> Measurement | None:
    """Return what runs of one shape show; None if not every one took a step in time."""
    workers = len(probes)
    problem = next((each.problem.message for each in probes if each.problem is not None), "")
    if problem:
        return Measurement(settings, workers, threads, problem=problem)
    parts = [each.parts for each in probes if each.parts is not None]
    steps = [each.step for each in parts if each.step is not None]
    if len(steps) < workers:
        return None
    scorings = [each.scored * each.scoring for each in parts if each.scoring is not None]
    return Measurement(
        settings,
        workers,
        threads,
        step_seconds=mean(steps),
        scoring_seconds=mean(scorings) if scorings else 0.0,
        setup_seconds=mean(each.setup for each in parts),
        memory_gb=max(
            each.parts.memory_gb if each.parts.on_gpu else each.own_memory_gb
            for each in probes
            if each.parts is not None
        ),
    )


def _work(config: Config, vocabulary: int) -> Numbers:
    """Return the work of a step, and 1: what `STEP_COSTS` gives the costs of."""
    return np.array([*astuple(step_work(config, vocabulary)), 1.0])


def _token_seconds(config: Config, vocabulary: int, costs: Numbers) -> float:
    """Return the time for one token of a step, without the optimizer."""
    with_tokens = np.array([1, 1, 0, 1, 0]) * _work(config, vocabulary)
    return float(with_tokens @ costs) / config.tokens_per_step


def _room(config: Config, vocabulary: int) -> Numbers:
    """Return the memory of a step, in numbers: what `MEMORY_COSTS` gives the costs of.

    1; weights; numbers that layers keep; and scores of tokens.
    """
    tokens = sequences_at_once(config, on_cpu=True) * config.max_seq_len
    kept = tokens * (config.num_layers + 1) * (config.model_dim + mlp_width(config))
    return np.array([1.0, parameter_count(config, vocabulary), kept, tokens * vocabulary])


def _fit(work: Numbers, found: Numbers, costs: Numbers) -> Numbers:
    """Return the costs of each unit of `work`, (N, K), that fit what was `found`, (N,).

    Relative errors are least; ratios between costs that the work does not show stay as in `costs`.
    None is negative.
    """
    from scipy.optimize import nnls  # takes a while to import

    costs = costs * np.median(found / (work @ costs))
    units = np.vstack([work * costs / found[:, None], TRUST * np.eye(len(costs))])
    wanted = np.concatenate([np.ones(len(found)), TRUST * np.ones(len(costs))])
    return nnls(units, wanted)[0] * costs


def _shape(config: Config) -> dict[str, int]:
    return {name: getattr(config, name) for name in SHAPE}


def _part(config: Config, resources: Resources) -> Config:
    return measured_part(config, on_cpu=not resources.gpus)


def _numbers_at_once(resources: Resources) -> tuple[int, ...]:
    """Return the numbers of runs at a time to compare, the most important first.

    On a CPU: as many as there are cores, or one. For each GPU: 1, 2, 4 and so on.
    """
    most = resources.workers
    if resources.gpus:
        doubled = (len(resources.gpus) << k for k in range(most.bit_length()))
        return tuple(n for n in doubled if n <= most) or (most,)
    return (most, 1) if most > 1 and not resources.fixed else (most,)


def _threads(resources: Resources, workers: int) -> int:
    if resources.gpus or workers >= resources.workers:
        return resources.threads
    return max(resources.threads, min(threads_each(workers), usable_cores() // workers))


def _plain(resources: Resources) -> Resources:
    return replace(resources, gpus=tuple(resources.gpus))


def _machine(resources: Resources) -> str:
    """Describe what determines the speed, in words."""
    processor = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
        names = (x.partition(":")[2].strip() for x in lines if x.startswith("model name"))
        processor = next(names, processor)
    cores = usable_cores()
    return f"{processor}, {cores} core{'s' if cores > 1 else ''}, device {resources.device}"


def _parsed(content: Any) -> Measurements:
    """Return measurements from JSON.

    Raises:
        ValueError, TypeError, KeyError, ConfigError: They are not such as `measure` returns.
    """
    if not isinstance(content, dict) or content.pop("version") != VERSION:
        raise ValueError("version")
    resources = dict(content["resources"])
    content["resources"] = Resources(**{**resources, "gpus": tuple(resources["gpus"])})
    content["measured"] = tuple(Measurement(**each) for each in content["measured"])
    found = Measurements(**content)
    _check_numbers(found, vocabulary=1, scored=1)
    _check_numbers(found.resources, workers=1, threads=1)
    for each in found.measured:
        _check_numbers(each, workers=1, threads=1)
        if not isinstance(each.settings, dict) or set(each.settings) != set(SHAPE):
            raise ValueError("settings")
        if _shape(each.config) != each.settings:
            raise ValueError("settings")
        if not each.problem and not each.step_seconds:
            raise ValueError("step_seconds")
    return found


def _check_numbers(found: Any, **least: int) -> None:
    """Check the types of a record's numbers and texts, and that numbers are not below `least`."""
    for known in fields(found):
        value = getattr(found, known.name)
        if known.type == "float":
            fine = type(value) in (int, float) and 0 <= value < math.inf
        elif known.type == "int":
            fine = type(value) is int and value >= least[known.name]
        else:
            fine = known.type not in ("str", "bool") or type(value).__name__ == known.type
        if not fine:
            raise ValueError(known.name)
