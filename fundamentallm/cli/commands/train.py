"""`fundamentallm train`: reads flags and a sweep's values, picks folder and trackers, trains."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fundamentallm import exit_codes
from fundamentallm.cli.hyperparameter_options import HyperparameterCommand
from fundamentallm.cli.messages import display_path, show, warn
from fundamentallm.cli.options import train_options
from fundamentallm.cli.prepare import prepare_here, read_recorded_text
from fundamentallm.cli.signals import StopSignals
from fundamentallm.cli.train_request import TrainRequest
from fundamentallm.cli.unstarted_runs import record_unstarted, score_impossible
from fundamentallm.cli.wandb_tracking import wandb_tracker
from fundamentallm.config.fields import ImpossibleCombinationError
from fundamentallm.config.hyperparameters import Config
from fundamentallm.config.parsing import DATA_KEYS
from fundamentallm.config.presets import PRESETS
from fundamentallm.errors import FundamentallmError
from fundamentallm.files.atomic import DiskError
from fundamentallm.files.run_folder import RunFolder, new_run_folder
from fundamentallm.metrics import score_text
from fundamentallm.printable import printable
from fundamentallm.status import RunStatus
from fundamentallm.sweep.wandb_agent import Assignment
from fundamentallm.trackers.base import TrackerError

if TYPE_CHECKING:
    from fundamentallm.data.text import Text
    from fundamentallm.trackers.base import Tracker
    from fundamentallm.trackers.wandb import WandbTracker
    from fundamentallm.training.plan import Plan
    from fundamentallm.training.run import PreparedRun
    from fundamentallm.training.state import Result

FIXES = "likely fixes: a lower --learning-rate, --gradient-clip 1.0, --mixed-precision false"


@click.command(cls=HyperparameterCommand, options_metavar="[FLAGS]")
@train_options
@click.pass_obj
def train(sweep: Assignment | None, **flags: Any) -> int:
    """Train a model on DATA.TXT or Python's language reference.

    DATA.TXT is a UTF-8 text. Values come from the defaults, --preset, --config and flags; later
    ones win. Under `wandb agent` the sweep's values count as flags, and a flag that disagrees with
    them is an error.
    """
    request = TrainRequest.from_flags(flags, sweep=sweep)
    try:
        return _train(request)
    except (FundamentallmError, click.UsageError) as error:
        if sweep is not None and error.exit_code == exit_codes.BAD_INPUT:
            message = error.message if isinstance(error, click.UsageError) else str(error)
            works = not isinstance(error, TrackerError)
            record_unstarted(request, RunStatus.REFUSED, message, on_wandb=works)
        raise


def _train(request: TrainRequest) -> int:
    """Resolve every value, read the text, and train."""
    request.check_folder()
    settings = request.resolve_settings()
    recorded = {key: settings.pop(key, None) for key in DATA_KEYS}
    try:
        config = Config(**settings)
        # A second signal waits for nothing, not even W&B: files are whole at every instant.
        with StopSignals(os._exit) as signals:  # torch is imported here: about two seconds
            text = read_recorded_text(request, recorded["data"], recorded["data_sha256"])
            if request.preset:
                _check_length(text, request.preset)
            return _run(config, text, request, signals)
    except ImpossibleCombinationError as error:
        if request.sweep is None:
            raise
        return score_impossible(request, settings, recorded["data"], str(error))


def _check_length(text: Text, preset: str) -> None:
    least = PRESETS[preset].min_characters
    if text.length < least:
        warn(
            f"--preset {preset} is meant for {least:,} characters or more; "
            f"{text.name} has {text.length:,}"
        )


def _run(config: Config, text: Text, request: TrainRequest, signals: StopSignals) -> int:
    """Train, show the result, and return the exit code."""
    from fundamentallm.cli.wandb_reuse import check_run_id
    from fundamentallm.training.train_step import OutOfMemoryError

    try:
        run = prepare_here(text, config, request.device)
    except OutOfMemoryError as error:
        if request.sweep is not None:
            record_unstarted(request, RunStatus.OOM, str(error))
        raise
    check_run_id(request, config, text.sha256)
    folder = request.folder
    if folder is None:
        folder = new_run_folder(Path("runs"), Path(text.name).stem)
    else:
        folder.create()
    with folder.held():
        return _run_in(folder, run, text, request, signals)


def _run_in(
    folder: RunFolder, run: PreparedRun, text: Text, request: TrainRequest, signals: StopSignals
) -> int:
    """Train in a folder whose lock is ours."""
    from fundamentallm.data.text import is_read_once
    from fundamentallm.training.run import Resume, execute

    if is_read_once(text.name):
        warn(
            f"{text.name} can be read only once; to resume this run later, save the text to a file "
            f"and use: {_resume_command(folder, request, text)}"
        )
    trackers = RunTrackers(folder, run, text, request, signals)
    try:
        finished = execute(
            run,
            folder,
            trackers.open,
            resume=Resume.ALWAYS if request.resumes else Resume.NEVER,
            stop_requested=trackers.stop_requested,
        )
    except DiskError as error:
        raise DiskError(
            f"{error}; the last checkpoint is intact; once this is fixed, resume with: "
            f"{_resume_command(_folder_now(folder), request, text)}"
        ) from None
    folder = _folder_now(folder)
    result = finished.result
    stopped_by = "wandb" if trackers.stopped_by_wandb else result.stopped_by
    _report(result, stopped_by, folder, run.plan, _resume_command(folder, request, text))
    if finished.undelivered:
        show(finished.undelivered, err=True)
    return exit_codes.of_run(result.status, stopped_by, in_sweep=request.sweep is not None)


class RunTrackers:
    """Trackers of one `fundamentallm train`, and what they say about stopping it."""

    def __init__(
        self,
        folder: RunFolder,
        run: PreparedRun,
        text: Text,
        request: TrainRequest,
        signals: StopSignals,
    ) -> None:
        from fundamentallm.trackers.console import ConsoleTracker

        self.folder, self.run, self.text = folder, run, text
        self.request, self.signals = request, signals
        self.console = ConsoleTracker()
        self.wandb: WandbTracker | None = None

    def open(self) -> list[Tracker]:
        """Show what is about to run, and return the trackers."""
        from fundamentallm.trackers.folder import FolderTracker

        self.wandb = wandb_tracker(self.folder, self.request)
        self.console.print(
            printable(
                f"{self.text.name}: {self.text.length:,} characters, a vocabulary of "
                f"{len(self.run.dataset.vocabulary)}; {self.run.plan.total_steps:,} steps; "
                f"run folder {self.folder.path}"
            )
        )
        wandb = [self.wandb] if self.wandb is not None else []
        return [FolderTracker(self.folder), self.console, *wandb]

    @property
    def stopped_by_wandb(self) -> bool:
        """Return whether W&B has asked the run to stop."""
        return self.wandb is not None and self.wandb.stopped_by_wandb

    def stop_requested(self) -> str:
        """Return who asked the run to stop, or ""."""
        return "wandb" if self.stopped_by_wandb else self.signals.name or self.console.closed


def _folder_now(named: RunFolder) -> RunFolder:
    """Return the run's folder at its current path; it may have been moved.

    Raises:
        DiskError: It was removed.
    """
    folder = named.moved()
    if folder is None:
        raise DiskError(
            f"{named.path}: removed while the run was writing to it; start the run again, or "
            "resume a copy of the folder with --output-dir COPY --resume"
        ) from None
    if folder.path != named.path:
        moved = display_path(folder.path)
        warn(f"{named.path} was moved to {moved} during the run, with all its files")
    return folder


def _resume_command(folder: RunFolder, request: TrainRequest, text: Text) -> str:
    """Return the command that resumes a run; a run kept off W&B stays off it."""
    from fundamentallm.data.text import is_read_once

    data = "TEXT.txt " if is_read_once(text.name) else ""
    command = f"fundamentallm train {data}--output-dir {shlex.quote(str(folder.path))} --resume"
    return f"{command} --no-wandb" if request.no_wandb else command


def _report(result: Result, stopped_by: str, folder: RunFolder, plan: Plan, resume: str) -> None:
    """Print the outcome and the next steps."""
    where = shlex.quote(str(folder.path))
    if result.status == RunStatus.DIVERGED:
        show(f"fundamentallm: diverged: {stopped_by}; {FIXES}", err=True)
    elif result.status == RunStatus.INTERRUPTED:
        show(
            f"stopped after step {result.step:,} by {stopped_by}; resume with: {resume}",
            err=True,
        )
    else:
        show(
            f"best val_loss {score_text(result.best_val_loss)} at step {result.best_step:,} "
            f"({result.step:,} done, ended by {stopped_by}); try: fundamentallm generate {where}"
        )
        config = plan.config
        all_wsd = config.lr_schedule == "wsd" and config.decay_fraction == 1
        falls = config.lr_schedule in ("cosine", "linear") or all_wsd
        if stopped_by == "max_minutes" and falls and result.step < plan.total_steps:
            warn(
                "time ran out before the learning rate had decayed, at step "
                f"{plan.total_steps:,}; --max-steps {result.step} decays it in the same time"
            )
