"""`fundamentallm find`: short tests that say where to search."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fundamentallm import exit_codes
from fundamentallm.cli.hyperparameter_options import HyperparameterCommand
from fundamentallm.cli.json_output import json_option, show_json
from fundamentallm.cli.messages import show
from fundamentallm.cli.options import run_options
from fundamentallm.cli.prepare import prepare_here, read_recorded_text
from fundamentallm.cli.signals import StopSignals
from fundamentallm.cli.train_request import TrainRequest
from fundamentallm.config.fields import shown
from fundamentallm.config.hyperparameters import Config
from fundamentallm.config.parsing import DATA_KEYS
from fundamentallm.files.run_folder import new_run_folder
from fundamentallm.status import RunStatus

if TYPE_CHECKING:
    from fundamentallm.data.text import Text

SCHEDULE = (
    "learning_rate", "lr_schedule", "warmup_steps", "lr_decay", "lr_steps", "min_lr_ratio",
    "decay_fraction",
)  # fmt: skip
LENGTH = ("epochs", "max_steps", "max_minutes", "eval_every", "early_stopping", "patience")
UNUSED = (*SCHEDULE, *LENGTH, "compile")  # hyperparameters that a range test does without


@click.group()
def find() -> None:
    """Run short tests that show where to search."""


@find.command("learning-rate", cls=HyperparameterCommand, without=UNUSED, options_metavar="[FLAGS]")
@run_options
@json_option
def learning_rate(as_json: bool, **flags: Any) -> int:
    """Find a range for the learning rate in one run of 200 steps.

    The rate rises from 1e-6 until the loss diverges. The range starts where the loss begins to fall
    and ends where it is lowest. The report in the run's folder shows the curve.
    """
    request = TrainRequest.from_flags(flags, no_wandb=True)
    request.check_folder()
    settings = request.resolve_settings()
    recorded = {key: settings.pop(key, None) for key in DATA_KEYS}
    config = Config(**settings)
    with StopSignals(os._exit) as signals:
        text = read_recorded_text(request, recorded["data"], recorded["data_sha256"])
        return _find(config, text, request, signals, as_json=as_json)


def _find(
    config: Config, text: Text, request: TrainRequest, signals: StopSignals, *, as_json: bool
) -> int:
    from fundamentallm.cli.report_file import REPORT_NAME, check_may_write, save_report
    from fundamentallm.report.read_runs import read_results
    from fundamentallm.trackers.console import ConsoleTracker
    from fundamentallm.trackers.folder import FolderTracker
    from fundamentallm.training.lr_range_test import STEPS, find_learning_rate

    run = prepare_here(text, config, request.device)
    folder = request.folder
    if folder is None:
        folder = new_run_folder(Path("runs"), f"{Path(text.name).stem}-find")
    else:
        check_may_write(folder.path / REPORT_NAME)
        folder.create()
    with folder.held():
        folder.clear()
        console = ConsoleTracker()
        if not as_json:
            console.print(f"{text.name}: {STEPS} steps at rising rates; run folder {folder.path}")
        found = find_learning_rate(
            run.config,
            run.dataset,
            device=str(run.device),
            trackers=[FolderTracker(folder)] if as_json else [FolderTracker(folder), console],
            stop_requested=lambda: signals.name or console.closed,
        )
    if found.stopped:
        by = signals.name or console.closed
        show(f"stopped by {by} before the test finished", err=True)
        return exit_codes.of_run(RunStatus.INTERRUPTED, by, in_sweep=False)
    report = folder.path / REPORT_NAME
    save_report(read_results([folder.path], "train_loss"), report)
    if not found.fell:
        show("the loss never fell, so no learning rate can be suggested", err=True)
        return exit_codes.FAILED
    if as_json:
        show_json(
            {"low": found.low, "high": found.high, "run": str(folder.path), "report": str(report)}
        )
        return exit_codes.DONE
    show(
        f"search the learning rate from {shown(found.low)} to {shown(found.high)}: "
        f"learning_rate: {{distribution: log_uniform_values, min: {shown(found.low)}, "
        f"max: {shown(found.high)}}}"
    )
    show(f"report: {shlex.quote(str(report))}")
    return exit_codes.DONE
