"""Execute a run of a sweep, as `fundamentallm train` would, in a process of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from fundamentallm.config.fields import ImpossibleCombinationError
from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.dataset import Dataset, load_prepared, prepare
from fundamentallm.data.text import DataError, read_lasting_text
from fundamentallm.errors import FundamentallmError
from fundamentallm.files.atomic import DiskError
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.files.samples import Sample
from fundamentallm.status import RunStatus
from fundamentallm.sweep.engine.job import Outcome, Row
from fundamentallm.sweep.engine.trial_pipe import TrialPipe
from fundamentallm.trackers.base import Number, Tracker
from fundamentallm.trackers.folder import FolderTracker
from fundamentallm.training.impossible import summary_of_impossible
from fundamentallm.training.plan import compiles
from fundamentallm.training.run import Resume, execute, prepare_run, record_untrained
from fundamentallm.training.train_step import OutOfMemoryError

if TYPE_CHECKING:
    from fundamentallm.sweep.engine.trainer_job import TrainerJob

LOG = logging.getLogger(__name__)

COMPILE_SECONDS = 600.0
"""Extra time for the first step of a compiled model."""
RELEASE_SECONDS = 5.0
"""Timeout for the lock of a process that was just killed."""


class PipeTracker:
    """`Tracker` that sends every row to the worker."""

    def __init__(self, pipe: TrialPipe) -> None:
        self.pipe = pipe
        self.total_steps = 0

    def start(
        self,
        settings: Mapping[str, object],
        *,
        total_steps: int,
        step: int,
        facts: Mapping[str, object],
    ) -> None:
        """Note how long the run will be."""
        self.total_steps = total_steps

    def set_total(self, total_steps: int) -> None:
        """Note the new length."""
        self.total_steps = total_steps

    def log(self, metrics: Mapping[str, Number], *, step: int) -> None:
        """Send the row."""
        self.pipe.send(Row(step, self.total_steps, dict(metrics)))

    def log_samples(self, samples: Sequence[Sample], *, step: int) -> None:
        """Do nothing: the worker does not use samples."""

    def finish(self, summary: Mapping[str, object]) -> None:
        """Note the last step; the outcome is sent after all trackers have finished."""
        self.pipe.over()


def run_trial(job: TrainerJob, pipe: TrialPipe) -> Outcome:
    """Train, or resume, in the current folder, which is the run's."""
    torch.set_num_threads(job.threads)
    folder = RunFolder(".")
    try:
        with folder.held(wait=RELEASE_SECONDS):
            folder.check_keeps(job.data)
            return _execute(folder, job, pipe)
    except DiskError:  # the worker waits for room
        raise
    except OutOfMemoryError as error:
        return Outcome(RunStatus.OOM, str(error))
    except FundamentallmError as error:
        return Outcome(RunStatus.FAILED, str(error))


def _execute(folder: RunFolder, job: TrainerJob, pipe: TrialPipe) -> Outcome:
    open_trackers = partial(_trackers, job, folder, pipe)
    try:
        run = prepare_run(Config(**job.settings), partial(dataset_of, job), job.device)
    except ImpossibleCombinationError as error:
        return _score_impossible(job, open_trackers(), str(error))
    if compiles(run.config, run.plan.total_steps, on_cuda=job.visible_gpu is not None):
        pipe.hang_timeout += COMPILE_SECONDS
    finished = execute(
        run,
        folder,
        open_trackers,
        resume=Resume.IF_POSSIBLE,
        stop_requested=pipe.stop_requested,
        reuse=None if job.reuse is None else RunFolder(job.reuse, job.reuse.parent),
        end_by=job.end_by,
    )
    undelivered = finished.undelivered
    if job.environment.get("WANDB_MODE") == "offline":
        undelivered = ""  # as requested
    if undelivered:
        LOG.warning("%s", undelivered)
    result = finished.result
    return Outcome(result.status, result.stopped_by, warning=undelivered)


def _trackers(job: TrainerJob, folder: RunFolder, pipe: TrialPipe) -> list[Tracker]:
    trackers: list[Tracker] = [FolderTracker(folder), PipeTracker(pipe)]
    if job.wandb is not None:
        from fundamentallm.trackers.wandb import RunOptions, WandbTracker

        trackers.append(WandbTracker(folder, RunOptions(**job.wandb)))
    return trackers


def dataset_of(job: TrainerJob, config: Config) -> Dataset:
    """Return the tokens that another trial stored, or encode the text and store them.

    Raises:
        DataError: The text cannot be read, is too short, or has changed.
    """
    kept = None
    if job.data_sha256:
        kept = load_prepared(job.data_name, job.data_sha256, config, job.tokens)
    if kept is not None:
        return kept
    text = read_lasting_text(job.data)
    if job.data_sha256 not in ("", text.sha256):
        raise DataError(
            f"{text.name} has changed since the sweep started: its SHA-256 is {text.sha256[:12]} "
            f"and was {job.data_sha256[:12]}; put the same text there"
        )
    read = prepare(text, config, cache=job.tokens)
    return replace(read, name=job.data_name)  # the name that all runs share, not the path


def _score_impossible(job: TrainerJob, trackers: Sequence[Tracker], reason: str) -> Outcome:
    """Give an invalid configuration the score of a uniform guess, as `train` does on W&B."""
    summary = summary_of_impossible(job.settings, read_lasting_text(job.data), reason)
    record_untrained(trackers, {**job.settings, "data": job.data_name}, summary)
    return Outcome(RunStatus.IMPOSSIBLE, reason)
