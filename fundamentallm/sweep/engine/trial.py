"""One run of a sweep, told by an order: as `fundamentallm train`, in a process of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from fundamentallm.config.fields import ImpossibleCombinationError
from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.dataset import Dataset, load_prepared, prepare
from fundamentallm.data.text import DataError, read_lasting_text
from fundamentallm.errors import FundamentallmError
from fundamentallm.files.run_folder import RunFolder, RunFolderError
from fundamentallm.files.samples import Sample
from fundamentallm.machine.cores_and_memory import keep_freed_memory
from fundamentallm.status import RunStatus
from fundamentallm.sweep.engine.job import Job, Outcome, Row
from fundamentallm.sweep.engine.trial_pipe import TrialPipe
from fundamentallm.trackers.base import Number, Tracker
from fundamentallm.trackers.folder import FolderTracker
from fundamentallm.training.checkpoint import Checkpoint, CheckpointError, UnreadError
from fundamentallm.training.impossible import summary_of_impossible
from fundamentallm.training.loop import train
from fundamentallm.training.plan import Plan, compiles
from fundamentallm.training.train_step import CompilingError, OutOfMemoryError

LOG = logging.getLogger(__name__)

COMPILING = 600.0  # seconds that a first step may take more
LETTING_GO = 5.0  # seconds: a process that was killed just now may not be gone yet


class PipeTracker:
    """A `Tracker` that tells the worker of every row."""

    def __init__(self, line: TrialPipe) -> None:
        self.line = line
        self.total_steps = 0

    def start(self, settings: Mapping[str, object], *, total_steps: int, step: int) -> None:
        """Note how long the run will be."""
        self.total_steps = total_steps

    def log(self, metrics: Mapping[str, Number], *, step: int) -> None:
        """Send the row."""
        self.line.send(Row(step, self.total_steps, dict(metrics)))

    def log_samples(self, samples: Sequence[Sample], *, step: int) -> None:
        """The worker has no use for them."""

    def finish(self, summary: Mapping[str, object]) -> None:
        """No more steps; the end itself is sent once every tracker is done."""
        self.line.over()


def run_trial(job: Job, line: TrialPipe) -> Outcome:
    """Train, or go on; the current folder is the run's."""
    torch.set_num_threads(job.threads)
    keep_freed_memory()
    folder = RunFolder(".")
    try:
        with folder.held(wait=LETTING_GO):
            folder.check_spares(job.data)
            return _run_in(folder, job, line)
    except RunFolderError as error:
        return Outcome(RunStatus.FAILED, str(error))


def _run_in(folder: RunFolder, job: Job, line: TrialPipe) -> Outcome:
    try:
        config = Config(**job.settings)
        dataset = dataset_of(job, config)
    except ImpossibleCombinationError as error:
        return _score_impossible(job, _trackers(job, folder, line), str(error))
    except FundamentallmError as error:
        return Outcome(RunStatus.FAILED, str(error))
    plan = Plan(config, dataset.batches_per_epoch(config))
    if compiles(config, plan.total_steps, on_cuda=job.visible_gpu is not None):
        line.patience += COMPILING
    for warning in [*dataset.warnings(), *plan.warnings()]:
        LOG.warning("%s", warning)
    try:
        checkpoint = _checkpoint(folder, config, dataset)
    except UnreadError as error:  # nothing of it may be cleared away
        return Outcome(RunStatus.FAILED, str(error))
    if checkpoint is None:
        folder.clear(starts_over=True)
    trackers = _trackers(job, folder, line)
    try:
        result = train(
            config,
            dataset,
            folder=folder,
            trackers=trackers,
            device=job.device,
            checkpoint=checkpoint,
            stop_requested=line.stop_requested,
        )
    except OutOfMemoryError as error:
        return Outcome(RunStatus.OOM, str(error))
    except CompilingError as error:
        return Outcome(RunStatus.FAILED, str(error))
    verdict = next((v for each in trackers if (v := getattr(each, "verdict", ""))), "")
    if verdict and job.environment.get("WANDB_MODE") == "offline":
        verdict = ""  # as it was asked for
    if verdict:
        LOG.warning("%s", verdict)
    return Outcome(result.status, result.stopped_by, verdict=verdict)


def _trackers(job: Job, folder: RunFolder, line: TrialPipe) -> list[Tracker]:
    trackers: list[Tracker] = [FolderTracker(folder), PipeTracker(line)]
    if job.wandb is not None:
        from fundamentallm.trackers.wandb import WandbTracker

        trackers.append(WandbTracker(folder, **job.wandb))
    return trackers


def dataset_of(job: Job, config: Config) -> Dataset:
    """The tokens that another trial has kept, or the text, encoded and kept for the others.

    Raises:
        DataError: The text cannot be read, is too short, or is not the one that it was.
    """
    kept = None
    if job.data_sha256:
        kept = load_prepared(job.data_name, job.data_sha256, config, job.tokens)
    if kept is not None:
        return kept
    text = read_lasting_text(job.data)
    if job.data_sha256 not in ("", text.sha256):
        raise DataError(
            f"{text.name} has changed since the sweep began: its SHA-256 is {text.sha256[:12]} "
            f"and was {job.data_sha256[:12]}; put the same text there"
        )
    read = prepare(text, config, cache=job.tokens)
    return replace(read, name=job.data_name)  # as all runs call it, not where it lies


def _checkpoint(folder: RunFolder, config: Config, dataset: Dataset) -> Checkpoint | None:
    """Where the run stands, if it has begun and its checkpoint can be used.

    Raises:
        UnreadError: It may be whole, and cannot be read now.
    """
    if not folder.last.exists():
        return None
    try:
        checkpoint = Checkpoint.load(folder.last, folder.root)
        checkpoint.check_continues(config, dataset)
        if missing := checkpoint.missing_from(folder):  # the score is the best of all rows
            raise CheckpointError(missing)
    except UnreadError:
        raise
    except CheckpointError as error:
        LOG.warning("%s; the run starts again", error)
        return None
    return checkpoint


def _score_impossible(job: Job, trackers: Sequence[Tracker], reason: str) -> Outcome:
    """What a run that cannot exist is worth: a uniform guess, as on W&B."""
    summary = summary_of_impossible(job.settings, read_lasting_text(job.data), reason)
    for tracker in trackers:
        tracker.start({**job.settings, "data": job.data_name}, total_steps=0, step=0)
        tracker.finish(summary)
    return Outcome(RunStatus.IMPOSSIBLE, reason)
