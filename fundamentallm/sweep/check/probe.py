"""Measure the parts of a run, with as many runs at a time as the sweep would have.

Each run is a process, forked from the server of the trials: if it runs out of memory, nothing else
is affected. Where a whole batch would take too long, a step is measured with fewer sequences: on a
CPU, its time is proportional to their number.
"""

from __future__ import annotations

import math
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fundamentallm.config.hyperparameters import Config
from fundamentallm.errors import FundamentallmError, one_line
from fundamentallm.machine.cores_and_memory import keep_freed_memory, own_memory_gb
from fundamentallm.sweep.engine.trainer_job import TextSource, TrainerJob
from fundamentallm.training.plan import sequences_at_once
from fundamentallm.warning_lines import print_warnings

if TYPE_CHECKING:
    from fundamentallm.machine.device import Device
    from fundamentallm.sweep.engine.concurrency import Resources
    from fundamentallm.sweep.engine.trial_process import ForkServer

START_SECONDS = 120
"""Timeout for the server's import of torch, and for reading a text of no length."""
SECONDS_PER_GB = 300
"""More time to read a text, for each 10^9 characters."""
STEPS_PER_ROW = 10
"""Steps between two rows of a run."""
STEPS = range(3, 200)
"""Number of steps to measure."""
BYTES_OF_A_ROW = 600
BYTES_OF_A_SAMPLE = 1_500


@dataclass(frozen=True)
class Effort:
    """Effort that a measurement is worth."""

    seconds: float = 90.0
    """Timeout, once the text is read."""
    timed: float = 1.0
    """Seconds of steps to measure, if they are short."""
    whole_run: bool = True
    """Measure also the sample and the checkpoints."""
    characters: int = 0
    """Length of the text."""

    @property
    def start_seconds(self) -> float:
        """Timeout until the text is read."""
        return START_SECONDS + SECONDS_PER_GB * self.characters / 1e9


@dataclass(frozen=True)
class Parts:
    """Seconds of each part of a run; parts that were not reached are estimated from others."""

    steps: int
    """Steps of the whole run."""
    scorings: int
    samples: int
    tried: float
    """Share of a step's sequences that is measured."""
    scored: float
    """Validation tokens, relative to the tokens of a measured step."""
    max_seconds: float
    """Time limit of the run; infinite without one."""
    weights: int
    vocabulary: int
    setup: float
    """Time from the job to the first step: stored tokens, and the model."""
    step: float | None = None
    """Time of a measured step."""
    scoring: float | None = None
    """Time to score as many validation tokens."""
    sample: float = 0.0
    save: float = 0.0
    """Time to save both checkpoints."""
    checkpoints: int | None = None
    """Bytes of both checkpoints."""
    memory_gb: float = 0.0
    on_gpu: bool = False
    has_trunk: bool = False
    """True if the run writes trunk.pt."""

    def seconds(self, step: float, steps: int) -> float:
        """Return the seconds of setup and `steps` steps, if a measured step takes `step`."""
        scoring = step / 3 if self.scoring is None else self.scoring  # only forward
        once = self.scored * scoring + self.save
        share = steps / self.steps
        pauses = share * (self.scorings * once + self.samples * self.sample)
        return self.setup + min(steps * step / self.tried + pauses, self.max_seconds)

    @property
    def disk_gb(self) -> float:
        """Return the size of the run's folder."""
        rows = (self.steps / STEPS_PER_ROW + self.scorings) * BYTES_OF_A_ROW
        return self.checkpoints_gb + (rows + self.samples * BYTES_OF_A_SAMPLE) / 1e9

    @property
    def checkpoints_gb(self) -> float:
        """Return the size of the run's checkpoints."""
        # Weights once in best.pt, and in last.pt with an average and up to two moments.
        kept = self.checkpoints if self.checkpoints is not None else 5 * 4 * self.weights
        return (2 if self.has_trunk else 1) * kept / 1e9  # the same again in trunk.pt


@dataclass(frozen=True)
class Problem:
    """Reason why a measurement ended early."""

    message: str
    no_memory: bool = False


@dataclass(frozen=True)
class Estimate:
    """Cost of a whole run."""

    seconds: float
    at_least: bool
    """True if no step ended in time."""
    first_row: float
    """Seconds until the first row."""
    memory_gb: float
    disk_gb: float
    checkpoints_gb: float


@dataclass
class Probe:
    """Process that measures a run, as its parent sees it."""

    process: Any
    pipe: Connection
    started_at: float = field(default_factory=time.monotonic)
    started: float = 0.0
    """Seconds until the process started."""
    is_ready: bool = False
    """True while it waits for the others."""
    last_message_at: float = 0.0
    read_at: float = 0.0
    """Time when it had read its text; 0 before."""
    ended: float = 0.0
    parts: Parts | None = None
    problem: Problem | None = None
    is_over: bool = False
    own_memory_gb: float = 0.0

    def listen(self) -> None:
        """Handle its next message."""
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            self.is_over = True
            self.process.join(timeout=5)
            killed = self.process.exitcode == -signal.SIGKILL
            self.problem = Problem(
                "does not fit: memory ran out" if killed else "its process failed",
                no_memory=killed,
            )
            return
        self.last_message_at = time.monotonic()
        self.started = self.started or self.last_message_at - self.started_at
        if isinstance(message, Parts):
            self.parts = message
            self.read_at = self.read_at or self.last_message_at
            self.own_memory_gb = max(self.own_memory_gb, own_memory_gb(self.process.pid))
        elif isinstance(message, Problem):
            self.problem, self.is_over = message, True
        else:
            self.is_ready, self.is_over = message == "ready", message == "over"

    def estimate(self) -> Estimate:
        """Estimate the run from the parts that were measured in time."""
        assert self.parts is not None
        parts, step = self.parts, self.parts.step
        if at_least := step is None:
            # Time in its first step so far; 0 if it did not reach it.
            step = self.ended - self.last_message_at if parts.setup else 0.0
        return Estimate(
            parts.seconds(step, parts.steps),
            at_least and not math.isfinite(parts.max_seconds),
            parts.seconds(step, min(parts.steps, STEPS_PER_ROW)),
            parts.memory_gb if parts.on_gpu else self.own_memory_gb,
            parts.disk_gb,
            parts.checkpoints_gb,
        )


def job_to_measure(
    settings: Mapping[str, Any],
    data: TextSource,
    resources: Resources,
    *,
    slot: int,
    folder: Path,
    tokens: Path,
) -> TrainerJob:
    """Return the job of a run with `settings` in a slot.

    Args:
        settings: Hyperparameters that differ from their defaults.
        data: Text of the run.
        resources: Part of this machine that all runs use.
        slot: Number of the slot; it determines the GPU.
        folder: Folder for temporary files.
        tokens: Folder of encoded texts.
    """
    path, name, sha256 = data.text(None)
    gpus = resources.gpus
    return TrainerJob(
        folder=folder,
        settings=settings,
        data=path,
        data_name=name,
        data_sha256=sha256,
        tokens=tokens,
        threads=resources.threads,
        device=resources.device.partition(":")[0] if gpus else resources.device,
        visible_gpu=gpus[slot % len(gpus)] if gpus else None,
        hang_timeout=0.0,
    )


def probe(
    workers: ForkServer, jobs: Sequence[TrainerJob], effort: Effort = Effort()
) -> list[Probe]:
    """Measure all jobs at the same time; return what each measured before the timeout."""
    probes: list[Probe] = []
    try:
        for job in jobs:
            probes.append(workers.started(partial(_start, workers, job, effort)))
        deadline = time.monotonic() + effort.start_seconds
        have_read = False
        while (left := deadline - time.monotonic()) > 0:
            busy = [each for each in probes if not each.is_over]
            if not busy:
                break
            if all(each.is_ready for each in busy):
                for each in busy:
                    each.is_ready = False
                    with suppress(OSError):  # killed meanwhile: its pipe shows that next
                        each.pipe.send("go")
            for pipe in wait([each.pipe for each in busy], left):
                next(each for each in busy if each.pipe is pipe).listen()
            if not have_read and all(each.parts or each.is_over for each in probes):
                have_read, deadline = True, time.monotonic() + effort.seconds
        return probes
    finally:
        for each in probes:
            each.ended = time.monotonic()
            if each.parts is None and each.problem is None:
                each.problem = Problem(
                    f"reading its text takes more than {effort.start_seconds:.0f} s"
                )
            each.process.kill()
            each.process.join()
            each.pipe.close()


def _start(workers: ForkServer, job: TrainerJob, effort: Effort) -> Probe:
    ours, theirs = workers.context.Pipe()
    # A class attribute of each context; BaseContext does not declare it.
    new: Any = workers.context.Process  # pyright: ignore[reportAttributeAccessIssue]
    process = new(target=main, args=(job, effort, theirs), daemon=True)
    process.start()
    theirs.close()
    return Probe(process, ours)


def main(job: TrainerJob, effort: Effort, pipe: Connection) -> None:
    """Measure a run in the child process, and send what is known after each part."""
    from fundamentallm.machine.device import is_out_of_memory
    from fundamentallm.training.train_step import OutOfMemoryError

    print_warnings()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if job.visible_gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = job.visible_gpu
    try:
        pipe.send("started")
        for parts in _measured(job, effort, pipe):
            pipe.send(parts)
        pipe.send("over")
        pipe.recv()  # the parent reads its memory, and then kills it
    except OutOfMemoryError as error:
        pipe.send(Problem(f"does not fit: {error}", no_memory=True))
    except FundamentallmError as error:
        pipe.send(Problem(str(error)))
    except (EOFError, BrokenPipeError):  # the parent has ended
        return
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        pipe.send(Problem(f"does not fit: {one_line(error)}", no_memory=True))


def _measured(job: TrainerJob, effort: Effort, pipe: Connection) -> Iterator[Parts]:
    from fundamentallm.machine.device import pick_device
    from fundamentallm.training.isolation import run_alone

    keep_freed_memory()
    config, device = Config(**job.settings), pick_device(job.device)
    with run_alone(config, device, job.threads):
        yield from _parts(job, config, device, effort, pipe)


def _parts(
    job: TrainerJob, whole: Config, device: Device, effort: Effort, pipe: Connection
) -> Iterator[Parts]:
    from fundamentallm.data.dataset import training_batch
    from fundamentallm.data.text import DataError
    from fundamentallm.machine.device import peak_memory_gb
    from fundamentallm.model.sampling import continue_text
    from fundamentallm.model.size import parameter_count
    from fundamentallm.sweep.engine.trainer_trial import dataset_of
    from fundamentallm.training.checkpoint import Checkpoint
    from fundamentallm.training.cuda_graphs import WARMUP_CALLS
    from fundamentallm.training.evaluate import score
    from fundamentallm.training.plan import SAMPLE_TIMES, Plan
    from fundamentallm.training.train_step import TrainStep

    dataset_of(job, whole)  # encodes the text, which only the first run does
    started_at = time.perf_counter()
    dataset = dataset_of(job, whole)
    plan = Plan(whole, dataset.batches_per_epoch(whole))
    part = measured_part(whole, on_cpu=device.type == "cpu")
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
        vocabulary=len(dataset.vocabulary),
        setup=0.0,
        on_gpu=device.type == "cuda",
        has_trunk=plan.decay_start < plan.total_steps,
    )
    yield parts
    train_step = TrainStep(len(dataset.vocabulary), part, device)
    parts = replace(parts, setup=time.perf_counter() - started_at)
    yield parts

    def step(number: int) -> float:
        started_at = time.perf_counter()
        windows = training_batch(dataset.train, part, number)
        loss, _ = train_step.step(windows, plan.learning_rate(number))
        loss.item()
        return time.perf_counter() - started_at

    before = (
        WARMUP_CALLS + 1 if parts.on_gpu else 1
    )  # the last is recorded as a graph, and later ones replay it
    for number in range(before):
        parts = replace(parts, step=step(number), memory_gb=peak_memory_gb(device))
        yield parts
    pipe.send("ready")
    pipe.recv()
    timed: list[float] = []
    while len(timed) < STEPS.start or (sum(timed) < effort.timed and len(timed) < STEPS.stop):
        timed.append(step(before + len(timed)))
        parts = replace(parts, step=sum(timed) / len(timed), memory_gb=peak_memory_gb(device))
        if len(timed) <= STEPS.start:
            yield parts
    yield parts
    train_step.model.eval()
    few = dataset.scored[: tokens + 1]
    started_at = time.perf_counter()
    with suppress(DataError):  # no measured token is in the vocabulary
        score(train_step.model, few, len(few), whole, device)
        seconds = (time.perf_counter() - started_at) * tokens / (len(few) - 1)
        yield (parts := replace(parts, scoring=seconds))
    if not effort.whole_run:
        return
    started_at = time.perf_counter()
    continue_text(train_step.model, dataset.vocabulary, dataset.val, seed=0)
    yield (parts := replace(parts, sample=time.perf_counter() - started_at))
    model, state = train_step.model.state_dict(), train_step.state_dict()
    with tempfile.TemporaryDirectory() as folder, suppress(OSError, FundamentallmError):
        started_at, size = time.perf_counter(), 0
        for training in ({}, state):
            file = Path(folder) / "probe.pt"
            Checkpoint(whole, dataset.vocabulary, {}, model, {}, training).save(file)
            size += file.stat().st_size
        yield replace(parts, save=time.perf_counter() - started_at, checkpoints=size)


def measured_part(config: Config, *, on_cpu: bool) -> Config:
    """Return the config with a number of sequences that is quick, but long enough to measure."""
    count = config.batch_size
    if on_cpu:  # a step processes no more at once
        at_once = sequences_at_once(config, on_cpu=True)
        work = config.num_layers * config.model_dim**2 * config.max_seq_len
        few = max(2, min(count, math.ceil(4e9 / work)))
        count = min(count, math.ceil(few / at_once) * at_once)
    return replace(config, batch_size=count, gradient_accumulation=1)
