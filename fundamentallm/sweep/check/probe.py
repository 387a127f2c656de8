"""What the parts of a run take here: as many runs side by side as the sweep would have at a time.

Each is a process of its own, forked from the server that trials are forked from, so that one which
takes all memory takes nothing else along. A step is tried with a few sequences where the whole
batch would take too long: on a CPU its time grows evenly with them.
"""

from __future__ import annotations

import math
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fundamentallm.config.hyperparameters import Config
from fundamentallm.errors import FundamentallmError, one_line
from fundamentallm.machine.cores_and_memory import keep_freed_memory, own_memory_gb
from fundamentallm.sweep.engine.job import Job
from fundamentallm.training.plan import sequences_at_once
from fundamentallm.warning_lines import print_warnings

if TYPE_CHECKING:
    from fundamentallm.machine.device import Device
    from fundamentallm.sweep.engine.trial_process import ForkServer

SECONDS = 90  # that one corner of the sweep may take
START_SECONDS = 120  # that the server may take to import torch
A_ROW = 10  # steps after which a run says something
TIMED = 1.0  # seconds of steps that are timed, where they are short
STEPS = range(3, 200)  # of which so many
BYTES_OF_A_ROW = 600
BYTES_OF_A_SAMPLE = 1_500


@dataclass(frozen=True)
class Parts:
    """Seconds of each part of a run; those that were not reached are guessed by the others."""

    steps: int
    """Of the whole run."""
    scorings: int
    samples: int
    tried: float
    """Which share of a step's sequences is tried at a time."""
    scored: float
    """Tokens of the validation part, by those of a step that is tried."""
    max_seconds: float
    """The run's own limit; infinite without one."""
    weights: int
    begin: float
    """From the order to the first step: tokens and model."""
    step: float | None = None
    """Of what is tried of a step."""
    scoring: float | None = None
    """Of as much of the validation part."""
    sample: float = 0.0
    save: float = 0.0
    """Of both checkpoints."""
    checkpoints: int | None = None
    """Bytes of both."""
    memory_gb: float = 0.0
    on_gpu: bool = False

    def seconds(self, step: float, steps: int) -> float:
        """Of the run's beginning and so many steps, if what is tried of a step takes so long."""
        scoring = step / 3 if self.scoring is None else self.scoring  # forward alone
        once = self.scored * scoring + self.save
        share = steps / self.steps
        pauses = share * (self.scorings * once + self.samples * self.sample)
        return self.begin + min(steps * step / self.tried + pauses, self.max_seconds)

    @property
    def disk_gb(self) -> float:
        """Of the run's folder."""
        # Weights once in best.pt, and in last.pt with an average and up to two moments.
        kept = self.checkpoints if self.checkpoints is not None else 5 * 4 * self.weights
        rows = (self.steps / A_ROW + self.scorings) * BYTES_OF_A_ROW
        return (kept + rows + self.samples * BYTES_OF_A_SAMPLE) / 1e9


@dataclass(frozen=True)
class Problem:
    """Why there is no more to be measured."""

    message: str
    no_memory: bool = False


@dataclass(frozen=True)
class Estimate:
    """What a whole run takes."""

    seconds: float
    at_least: bool
    """Whether not one step was over in time."""
    first_row: float
    """Seconds until it says something."""
    memory_gb: float
    disk_gb: float


@dataclass
class Probe:
    """One process at work, seen from outside."""

    process: Any
    pipe: Connection
    began: float = field(default_factory=time.monotonic)
    started: float = 0.0
    """Seconds until its process was there."""
    waits: bool = False
    """Whether it is ready, and waits for the others."""
    heard: float = 0.0
    ended: float = 0.0
    parts: Parts | None = None
    problem: Problem | None = None
    over: bool = False
    own_memory_gb: float = 0.0

    def listen(self) -> None:
        """Take in what it says."""
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            self.over = True
            self.process.join(timeout=5)
            killed = self.process.exitcode == -signal.SIGKILL
            self.problem = Problem(
                "does not fit: its memory was not enough" if killed else "its process failed",
                no_memory=killed,
            )
            return
        self.heard = time.monotonic()
        self.started = self.started or self.heard - self.began
        if isinstance(message, Parts):
            self.parts = message
            self.own_memory_gb = max(self.own_memory_gb, own_memory_gb(self.process.pid))
        elif isinstance(message, Problem):
            self.problem, self.over = message, True
        else:
            self.waits, self.over = message == "ready", message == "over"

    def estimate(self) -> Estimate:
        """By what it could measure, and had to leave when time was over."""
        assert self.parts is not None
        parts, step = self.parts, self.parts.step
        if at_least := step is None:
            # So long it has been at its first step; or not even there.
            step = self.ended - self.heard if parts.begin else 0.0
        return Estimate(
            parts.seconds(step, parts.steps),
            at_least and not math.isfinite(parts.max_seconds),
            parts.seconds(step, min(parts.steps, A_ROW)),
            parts.memory_gb if parts.on_gpu else self.own_memory_gb,
            parts.disk_gb,
        )


def probe(workers: ForkServer, jobs: Sequence[Job]) -> list[Probe]:
    """Try all orders at the same time; what each could measure until time was over."""
    probes: list[Probe] = []
    for job in jobs:
        ours, theirs = workers.context.Pipe()
        # A class attribute of each context; BaseContext does not declare it.
        start: Any = workers.context.Process  # pyright: ignore[reportAttributeAccessIssue]
        process = start(target=main, args=(job, theirs), daemon=True)
        process.start()
        theirs.close()
        probes.append(Probe(process, ours))
    try:
        deadline = time.monotonic() + START_SECONDS
        begun = False
        while (left := deadline - time.monotonic()) > 0:
            busy = [each for each in probes if not each.over]
            if not busy:
                break
            if all(each.waits for each in busy):
                for each in busy:
                    each.waits = False
                    each.pipe.send("go")
            for pipe in wait([each.pipe for each in busy], left):
                next(each for each in busy if each.pipe is pipe).listen()
            if not begun:  # the server has imported what it needs
                begun, deadline = True, time.monotonic() + SECONDS
        return probes
    finally:
        for each in probes:
            each.ended = time.monotonic()
            if each.parts is None and each.problem is None:
                each.problem = Problem(f"reading its text takes more than {SECONDS} s")
            each.process.kill()
            each.process.join()
            each.pipe.close()


def main(job: Job, pipe: Connection) -> None:
    """In the process: measure, and say each time what is known by then."""
    from fundamentallm.machine.device import is_out_of_memory
    from fundamentallm.training.train_step import OutOfMemoryError

    print_warnings()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if job.visible_gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = job.visible_gpu
    try:
        pipe.send("begun")
        for parts in _measured(job, pipe):
            pipe.send(parts)
        pipe.send("over")
        pipe.recv()  # its memory is looked at from outside; then it is killed
    except OutOfMemoryError as error:
        pipe.send(Problem(f"does not fit: {error}", no_memory=True))
    except FundamentallmError as error:
        pipe.send(Problem(str(error)))
    except (EOFError, BrokenPipeError):  # nobody listens any more
        return
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        pipe.send(Problem(f"does not fit: {one_line(error)}", no_memory=True))


def _measured(job: Job, pipe: Connection) -> Iterator[Parts]:
    from fundamentallm.machine.device import pick_device
    from fundamentallm.training.isolation import run_alone

    keep_freed_memory()
    config, device = Config(**job.settings), pick_device(job.device)
    with run_alone(config, device, job.threads):
        yield from _parts(job, config, device, pipe)


def _parts(job: Job, whole: Config, device: Device, pipe: Connection) -> Iterator[Parts]:
    from fundamentallm.data.dataset import training_batch
    from fundamentallm.data.text import DataError
    from fundamentallm.machine.device import peak_memory_gb
    from fundamentallm.model.sampling import continue_text
    from fundamentallm.model.size import parameter_count
    from fundamentallm.sweep.engine.trial import dataset_of
    from fundamentallm.training.checkpoint import Checkpoint
    from fundamentallm.training.cuda_graphs import WARMUP_CALLS
    from fundamentallm.training.evaluate import score
    from fundamentallm.training.plan import SAMPLE_TIMES, Plan
    from fundamentallm.training.train_step import TrainStep

    began = time.perf_counter()
    dataset = dataset_of(job, whole)
    plan = Plan(whole, dataset.batches_per_epoch(whole))
    part = _part(whole, on_cpu=device.type == "cpu")
    scorings = sum(plan.evaluates_after(step) for step in range(1, min(plan.total_steps, 10_000)))
    scorings = math.ceil(scorings * max(1.0, plan.total_steps / 10_000)) + 1
    tokens = part.batch_size * whole.max_seq_len
    parts = Parts(
        steps=plan.total_steps,
        scorings=scorings,
        samples=min(SAMPLE_TIMES, scorings),
        tried=part.batch_size / (whole.batch_size * whole.gradient_accumulation),
        scored=len(dataset.scored) / tokens,
        max_seconds=60 * whole.max_minutes or math.inf,
        weights=parameter_count(whole, len(dataset.vocabulary)),
        begin=0.0,
        on_gpu=device.type == "cuda",
    )
    yield parts
    train_step = TrainStep(len(dataset.vocabulary), part, device)
    parts = replace(parts, begin=time.perf_counter() - began)
    yield parts

    def step(number: int) -> float:
        began = time.perf_counter()
        windows = training_batch(dataset.train, part, number)
        loss, _ = train_step.step(windows, plan.learning_rate(number))
        loss.item()
        return time.perf_counter() - began

    before = (
        WARMUP_CALLS + 1 if parts.on_gpu else 1
    )  # the last is recorded, and what follows replayed
    for number in range(before):
        parts = replace(parts, step=step(number), memory_gb=peak_memory_gb(device))
        yield parts
    pipe.send("ready")
    pipe.recv()
    timed: list[float] = []
    while len(timed) < STEPS.start or (sum(timed) < TIMED and len(timed) < STEPS.stop):
        timed.append(step(before + len(timed)))
        parts = replace(parts, step=sum(timed) / len(timed), memory_gb=peak_memory_gb(device))
        if len(timed) <= STEPS.start:
            yield parts
    yield parts
    train_step.model.eval()
    few = dataset.scored[: tokens + 1]
    began = time.perf_counter()
    with suppress(DataError):  # of what is tried nothing is known to the model
        score(train_step.model, few, len(few), whole, device)
        seconds = (time.perf_counter() - began) * tokens / (len(few) - 1)
        yield (parts := replace(parts, scoring=seconds))
    began = time.perf_counter()
    continue_text(train_step.model, dataset.vocabulary, dataset.val, seed=0)
    yield (parts := replace(parts, sample=time.perf_counter() - began))
    model, state = train_step.model.state_dict(), train_step.state_dict()
    with tempfile.TemporaryDirectory() as folder, suppress(OSError, FundamentallmError):
        began, size = time.perf_counter(), 0
        for training in ({}, state):
            file = Path(folder) / "probe.pt"
            Checkpoint(whole, dataset.vocabulary, {}, model, {}, training).save(file)
            size += file.stat().st_size
        yield replace(parts, save=time.perf_counter() - began, checkpoints=size)


def _part(config: Config, *, on_cpu: bool) -> Config:
    """With as many sequences as take long enough to measure, and not too long."""
    count = config.batch_size
    if on_cpu:  # no step works through more at once
        at_once = sequences_at_once(config, on_cpu=True)
        work = config.num_layers * config.model_dim**2 * config.max_seq_len
        few = max(2, min(count, math.ceil(4e9 / work)))
        count = min(count, math.ceil(few / at_once) * at_once)
    return replace(config, batch_size=count, gradient_accumulation=1)
