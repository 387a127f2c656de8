"""One run of a sweep, told by an order: as `fundamentallm train`, in a process of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from fundamentallm.checkpoint import Checkpoint, CheckpointError, UnreadError
from fundamentallm.data import Dataset, load_prepared, prepare
from fundamentallm.declaration import ImpossibleCombinationError
from fundamentallm.errors import FundamentallmError
from fundamentallm.hyperparameters import Config
from fundamentallm.impossible import summary_of_impossible
from fundamentallm.learner import CompilingError, OutOfMemoryError
from fundamentallm.machine import keep_freed_memory
from fundamentallm.plan import Plan, compiles
from fundamentallm.run_folder import RunFolder, RunFolderError
from fundamentallm.samples import Sample
from fundamentallm.sweep.line import Line
from fundamentallm.sweep.order import Ended, Order, Row
from fundamentallm.text import DataError, read_lasting_text
from fundamentallm.trackers.folder import FolderTracker
from fundamentallm.trackers.protocol import Number, Tracker
from fundamentallm.training import train

LOG = logging.getLogger(__name__)

COMPILING = 600.0  # seconds that a first step may take more
LETTING_GO = 5.0  # seconds: a process that was killed just now may not be gone yet


class LineTracker:
    """A `Tracker` that tells the worker of every row."""

    def __init__(self, line: Line) -> None:
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


def run_trial(order: Order, line: Line) -> Ended:
    """Train, or go on; the current folder is the run's."""
    torch.set_num_threads(order.threads)
    keep_freed_memory()
    folder = RunFolder(".")
    try:
        with folder.held(wait=LETTING_GO):
            folder.check_spares(order.data)
            return _run_in(folder, order, line)
    except RunFolderError as error:
        return Ended("failed", str(error))


def _run_in(folder: RunFolder, order: Order, line: Line) -> Ended:
    try:
        config = Config(**order.settings)
        dataset = dataset_of(order, config)
    except ImpossibleCombinationError as error:
        return _score_impossible(order, _trackers(order, folder, line), str(error))
    except FundamentallmError as error:
        return Ended("failed", str(error))
    plan = Plan(config, dataset.batches_per_epoch(config))
    if compiles(config, plan.total_steps, on_cuda=order.visible_gpu is not None):
        line.patience += COMPILING
    for warning in [*dataset.warnings(), *plan.warnings()]:
        LOG.warning("%s", warning)
    try:
        checkpoint = _checkpoint(folder, config, dataset)
    except UnreadError as error:  # nothing of it may be cleared away
        return Ended("failed", str(error))
    if checkpoint is None:
        folder.clear(starts_over=True)
    trackers = _trackers(order, folder, line)
    try:
        result = train(
            config,
            dataset,
            folder=folder,
            trackers=trackers,
            device=order.device,
            checkpoint=checkpoint,
            stop_requested=line.stop_requested,
        )
    except OutOfMemoryError as error:
        return Ended("oom", str(error))
    except CompilingError as error:
        return Ended("failed", str(error))
    verdict = next((v for each in trackers if (v := getattr(each, "verdict", ""))), "")
    if verdict and order.environment.get("WANDB_MODE") == "offline":
        verdict = ""  # as it was asked for
    if verdict:
        LOG.warning("%s", verdict)
    return Ended(result.status, result.stopped_by, verdict=verdict)


def _trackers(order: Order, folder: RunFolder, line: Line) -> list[Tracker]:
    trackers: list[Tracker] = [FolderTracker(folder), LineTracker(line)]
    if order.wandb is not None:
        from fundamentallm.trackers.wandb import WandbTracker

        trackers.append(WandbTracker(folder, **order.wandb))
    return trackers


def dataset_of(order: Order, config: Config) -> Dataset:
    """The tokens that another trial has kept, or the text, encoded and kept for the others.

    Raises:
        DataError: The text cannot be read, is too short, or is not the one that it was.
    """
    kept = None
    if order.data_sha256:
        kept = load_prepared(order.data_name, order.data_sha256, config, order.tokens)
    if kept is not None:
        return kept
    text = read_lasting_text(order.data)
    if order.data_sha256 not in ("", text.sha256):
        raise DataError(
            f"{text.name} has changed since the sweep began: its SHA-256 is {text.sha256[:12]} "
            f"and was {order.data_sha256[:12]}; put the same text there"
        )
    read = prepare(text, config, cache=order.tokens)
    return replace(read, name=order.data_name)  # as all runs call it, not where it lies


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


def _score_impossible(order: Order, trackers: Sequence[Tracker], reason: str) -> Ended:
    """What a run that cannot exist is worth: a uniform guess, as on W&B."""
    summary = summary_of_impossible(order.settings, read_lasting_text(order.data), reason)
    for tracker in trackers:
        tracker.start({**order.settings, "data": order.data_name}, total_steps=0, step=0)
        tracker.finish(summary)
    return Ended("impossible", reason)
