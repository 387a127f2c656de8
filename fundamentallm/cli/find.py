"""`fundamentallm find`: short tests that say where to search."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import click

from fundamentallm import exit_codes
from fundamentallm.cli.options import HyperparameterCommand
from fundamentallm.cli.request import DATA_KEYS, Request
from fundamentallm.cli.signals import StopSignals
from fundamentallm.hyperparameters import Config
from fundamentallm.presets import PRESETS
from fundamentallm.run_folder import new_run_folder


@click.group()
def find() -> None:
    """Short tests that say where to search."""


@find.command("learning-rate", cls=HyperparameterCommand, options_metavar="[FLAGS]")
@click.argument("data", required=False, metavar="[DATA.TXT]")
@click.option("--output-dir", metavar="DIR", help="The run's folder.  [default: a new one in runs]")
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), help="Start from these; flags change it."
)
@click.option("--config", "config_file", metavar="YAML", help="Start from a run's config.yaml.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --output-dir.")
@click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.")
def learning_rate(
    data: str | None,
    output_dir: str | None,
    preset: str | None,
    config_file: str | None,
    overwrite: bool,
    device: str,
    **flags: Any,
) -> int:
    """Find the range in which to search for the learning rate, in one run of 200 steps.

    The rate rises from 1e-6 until the loss blows up. The range goes from where the loss begins to
    fall to where it is least; the curve is in the report of the run's folder.
    """
    typed: dict[str, tuple[Any, ...]] = {name: given for name, given in flags.items() if given}
    if data is not None:
        typed["data"] = (data,)
    request = Request(
        typed, output_dir=output_dir, preset=preset, config_file=config_file, resume=False,
        overwrite=overwrite, device=device, no_wandb=True, log_model=None, sweep=None,
    )  # fmt: skip
    request.check_folder()
    settings = request.settle()
    recorded = {key: settings.pop(key, None) for key in DATA_KEYS}
    config = Config(**settings)
    with StopSignals(os._exit) as signals:
        return _find(config, recorded["data"], request, signals)


def _find(config: Config, data: Any, request: Request, signals: StopSignals) -> int:
    from fundamentallm.cli.report import NAME, write
    from fundamentallm.data import prepare
    from fundamentallm.device import pick_device
    from fundamentallm.learner import check_fits
    from fundamentallm.range_test import STEPS, find_learning_rate
    from fundamentallm.report.factors import shown
    from fundamentallm.report.read_runs import read_results
    from fundamentallm.text import read_text
    from fundamentallm.trackers.console import ConsoleTracker
    from fundamentallm.trackers.folder import FolderTracker

    text = read_text(data)
    dataset = prepare(text, config)
    check_fits(config, len(dataset.vocabulary), pick_device(request.device))
    folder = request.folder
    if folder is None:
        folder = new_run_folder(Path("runs"), f"{Path(text.name).stem}-find")
    else:
        folder.create()
    with folder.held():
        folder.clear()
        console = ConsoleTracker()
        console.say(f"{text.name}: {STEPS} steps at rising rates; run folder {folder.path}")
        found = find_learning_rate(
            config,
            dataset,
            device=request.device,
            trackers=[FolderTracker(folder), console],
            stop_requested=lambda: signals.name or console.closed,
        )
    if found.stopped:
        by = signals.name or console.closed
        click.echo(f"stopped by {by} before there was an answer", err=True)
        return exit_codes.of_run("interrupted", by, in_sweep=False)
    write(read_results([folder.path], "train_loss"), folder.path / NAME)
    if not found.fell:
        click.echo("the loss never fell: no learning rate can be suggested", err=True)
        return exit_codes.FAILED
    click.echo(
        f"search the learning rate from {shown(found.low)} to {shown(found.high)}: "
        f"learning_rate: {{distribution: log_uniform_values, min: {shown(found.low)}, "
        f"max: {shown(found.high)}}}"
    )
    click.echo(f"report: {shlex.quote(str(folder.path / NAME))}")
    return exit_codes.DONE
