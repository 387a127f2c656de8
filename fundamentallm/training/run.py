"""Execute a run, for `fundamentallm train` and for a trial of a sweep alike.

`prepare_run` comes first and writes nothing; `execute` trains in a folder that the caller holds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from typing import Any

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.dataset import Dataset
from fundamentallm.files.run_folder import REMOVED_BY, RunFolder, RunFolderError
from fundamentallm.machine.cores_and_memory import keep_freed_memory
from fundamentallm.machine.device import Device, computes_in_half, pick_device
from fundamentallm.status import RunStatus
from fundamentallm.trackers.base import RemoteTracker, Tracker
from fundamentallm.training.checkpoint import Checkpoint, CheckpointError, UnreadError
from fundamentallm.training.loop import train
from fundamentallm.training.plan import Plan
from fundamentallm.training.reuse import adopt
from fundamentallm.training.state import Result
from fundamentallm.training.train_step import check_fits

LOG = logging.getLogger(__name__)


class Resume(Enum):
    """Treatment of a run that is already in the folder."""

    NEVER = auto()
    """Remove it and start a new one."""
    ALWAYS = auto()
    """Resume it; raise if its checkpoint cannot be used."""
    IF_POSSIBLE = auto()
    """Resume it; start over if its checkpoint cannot be used or rows are missing."""


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to train."""

    config: Config
    dataset: Dataset
    device: Device

    @cached_property
    def plan(self) -> Plan:
        """Number of steps, and what happens after which."""
        return Plan(self.config, self.dataset.batches_per_epoch(self.config))


@dataclass(frozen=True)
class FinishedRun:
    """The result of a run, and how much of it reached remote trackers."""

    result: Result
    undelivered: str
    """Data that a remote tracker did not receive, in one line; "" if it has everything."""


def prepare_run(config: Config, read: Callable[[Config], Dataset], device: str) -> PreparedRun:
    """Read the text, pick the device, and log warnings about both.

    Args:
        config: The hyperparameters.
        read: Returns the text as tokens.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        DataError: The text cannot be read or is too short.
        DeviceError: The device does not exist here.
        OutOfMemoryError: The model does not fit this machine.
    """
    keep_freed_memory()
    run = PreparedRun(config, read(config), pick_device(device))
    for warning in (*config.warnings(), *run.dataset.warnings()):
        LOG.warning("%s", warning)
    if config.mixed_precision and not computes_in_half(run.device):
        LOG.warning(
            "--mixed-precision: this processor has no bfloat16; the run computes in float32"
        )
    check_fits(config, len(run.dataset.vocabulary), run.device)
    return run


def execute(
    run: PreparedRun,
    folder: RunFolder,
    open_trackers: Callable[[], Sequence[Tracker]],
    *,
    resume: Resume,
    stop_requested: Callable[[], str],
    reuse: RunFolder | None = None,
    end_by: float = math.inf,
) -> FinishedRun:
    """Train `run` in `folder`.

    Args:
        run: The run, prepared.
        folder: The run's folder; the caller holds its lock.
        open_trackers: Returns the trackers; called after the folder is cleared or the checkpoint
            loaded.
        resume: Treatment of a run that is already in the folder.
        stop_requested: Returns the reason to stop, or ""; called before every step.
        reuse: Folder of an earlier run, to continue from its state if `folder` has none and both
            are the same so far.
        end_by: Time of `time.time` by which the run should end, if that is before `max_minutes`.

    Raises:
        CheckpointError: The checkpoint cannot be used, and `resume` requires it.
        RunFolderError: The checkpoint is gone, and `resume` requires it.
        DiskError: A file cannot be written; the last checkpoint is still there.
        OutOfMemoryError: A step does not fit this machine.
        CompilingError: The model cannot be compiled.
    """
    for warning in run.plan.warnings():
        LOG.warning("%s", warning)
    checkpoint = load_or_clear(folder, run.config, run.dataset, resume)
    if checkpoint is None and reuse is not None:
        checkpoint = adopt(reuse, folder, run.config, run.dataset, run.device)
    trackers = open_trackers()
    result = train(
        run.config,
        run.dataset,
        folder=folder,
        trackers=trackers,
        device=str(run.device),
        checkpoint=checkpoint,
        stop_requested=stop_requested,
        end_by=end_by,
    )
    remote = (each.undelivered for each in trackers if isinstance(each, RemoteTracker))
    return FinishedRun(result, next(filter(None, remote), ""))


def record_untrained(
    trackers: Sequence[Tracker],
    settings: Mapping[str, object],
    summary: Mapping[str, Any],
    *,
    step: int = 0,
) -> None:
    """Record the end of a run that took no step in this process."""
    for tracker in trackers:
        tracker.start(settings, total_steps=0, step=step, facts={})
        tracker.finish(summary)


def load_or_clear(
    folder: RunFolder, config: Config, dataset: Dataset, resume: Resume
) -> Checkpoint | None:
    """Load the checkpoint to resume from; if there is none, clear the folder for a new run.

    Raises:
        UnreadError: The checkpoint may be whole, but cannot be read now.
        CheckpointError: The checkpoint cannot be used, and `resume` requires it.
        RunFolderError: The checkpoint is gone, and `resume` requires it.
    """
    if resume is not Resume.NEVER and folder.last.exists():
        try:
            return _load(folder, config, dataset, resume)
        except UnreadError:
            raise
        except CheckpointError as error:
            if resume is Resume.ALWAYS:
                raise
            LOG.warning("%s; the run starts over", error)
    elif resume is Resume.ALWAYS:
        _check_was_never_saved(folder)
    folder.clear(starts_over=resume is not Resume.NEVER)
    return None


def _load(folder: RunFolder, config: Config, dataset: Dataset, resume: Resume) -> Checkpoint:
    checkpoint = Checkpoint.load(folder.last, folder.root)
    checkpoint.check_continues(config, dataset)
    if missing := checkpoint.missing_from(folder):
        if resume is Resume.IF_POSSIBLE:  # a sweep's score is the best of all rows
            raise CheckpointError(missing)
        LOG.warning(
            "%s, and %s resumes after them; to write them again, train from the start with "
            "--overwrite",
            missing,
            folder.last.name,
        )
    return checkpoint


def _check_was_never_saved(folder: RunFolder) -> None:
    """Raise if `last.pt` is gone; a run writes it after its first evaluation."""
    had = folder.read_summary().get("status") in (RunStatus.DONE, RunStatus.INTERRUPTED)
    if had or sum("val_loss" in row for row in folder.rows()) > 1:
        by = f", {REMOVED_BY}" if folder.last.name in folder.removed() else ""
        raise RunFolderError(
            f"--resume: {folder.last} is gone{by}, and the run cannot be resumed without it; put "
            "it back, or start over with --overwrite"
        )
