"""`fundamentallm train`: reads flags, picks the folder and the trackers, trains."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fundamentallm.cli.messages import warn
from fundamentallm.cli.options import HyperparameterCommand
from fundamentallm.cli.signals import StopSignals
from fundamentallm.hyperparameters import Config, read_values
from fundamentallm.presets import PRESETS
from fundamentallm.run_folder import RunFolder, new_run_folder, read_flat_yaml

if TYPE_CHECKING:
    from fundamentallm.data import Text
    from fundamentallm.trackers.console import ConsoleTracker
    from fundamentallm.training import Result

FAILED = 1
FIXES = "likely fixes: a lower --learning-rate, --gradient-clip 1.0, --mixed-precision false"
DATA_KEYS = ("data", "data_sha256")  # what config.yaml holds beside hyperparameters


@click.command(cls=HyperparameterCommand, options_metavar="[FLAGS]")
@click.argument("data", required=False, metavar="[DATA.TXT]")
@click.option("--output-dir", metavar="DIR", help="The run's folder.  [default: a new runs/NAME-N]")
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="Start from a set of hyperparameters; flags change it.",
)
@click.option("--config", "config_file", metavar="YAML", help="Start from a run's config.yaml.")
@click.option("--resume", is_flag=True, help="Go on with the run in --output-dir, if there is one.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --output-dir.")
@click.option("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--no-wandb", is_flag=True, help="Keep the run on this machine (as now always).")
def train(
    data: str | None,
    output_dir: str | None,
    preset: str | None,
    config_file: str | None,
    resume: bool,
    overwrite: bool,
    device: str,
    no_wandb: bool,
    **flags: Any,
) -> int:
    """Train a model on DATA.TXT, a UTF-8 text; without one, on Python's language reference.

    Values come from, the later the stronger: defaults, --preset, --config, flags.
    """
    folder = RunFolder(output_dir) if output_dir else None
    _check_folder(folder, resume=resume, overwrite=overwrite)
    settings: dict[str, Any] = {}
    if resume and folder and folder.config.exists():
        settings |= _read_settings(folder.config)
    if preset:
        settings |= PRESETS[preset].values
    if config_file:
        settings |= _read_settings(Path(config_file))
    settings |= {name: value for name, value in flags.items() if value is not None}
    recorded = {key: settings.pop(key, None) for key in DATA_KEYS}
    config = Config(**settings)
    with StopSignals() as signals:  # from here on, torch is imported: about two seconds
        text = _read_text(data or recorded["data"], recorded["data_sha256"])
        for line in config.warnings():
            warn(line)
        if preset and len(text.content) < PRESETS[preset].least_characters:
            warn(
                f"--preset {preset} is made for {PRESETS[preset].least_characters:,} characters "
                f"or more, and {text.name} has {len(text.content):,}"
            )
        return _run(config, text, folder, device, signals, resume=resume, overwrite=overwrite)


def _check_folder(folder: RunFolder | None, *, resume: bool, overwrite: bool) -> None:
    """See that the flags agree, and that no run is overwritten unasked."""
    if folder is None:
        if resume or overwrite:
            flag = "--resume" if resume else "--overwrite"
            raise click.UsageError(
                f"{flag} needs --output-dir, the folder of the run that is meant"
            )
        return
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other; give one")
    if folder.holds_a_run():
        if not (resume or overwrite):
            raise click.UsageError(
                f"--output-dir {folder.path}: a run is there; go on with it by --resume, "
                "replace it by --overwrite, or give another folder"
            )
    elif resume:
        warn(f"--resume: no run in {folder.path} yet; starting one")


def _read_settings(path: Path) -> dict[str, Any]:
    """What a config.yaml holds: hyperparameters, and which text they were used on."""
    content = read_flat_yaml(path)
    data = {key: str(content.pop(key)) for key in DATA_KEYS if key in content}
    return read_values(content, str(path)) | data


def _read_text(data: str | None, recorded_sha256: str | None) -> Text:
    from fundamentallm.data import read_text

    text = read_text(data)
    if recorded_sha256 and text.sha256 != recorded_sha256:
        warn(
            f"{text.name} is not the text that config.yaml names: its SHA-256 is "
            f"{text.sha256[:12]} and was {recorded_sha256[:12]}"
        )
    return text


def _run(
    config: Config,
    text: Text,
    folder: RunFolder | None,
    device: str,
    signals: StopSignals,
    *,
    resume: bool,
    overwrite: bool,
) -> int:
    """Train, show how it ended, and return the exit code."""
    from fundamentallm.checkpoint import Checkpoint
    from fundamentallm.data import prepare
    from fundamentallm.device import pick_device
    from fundamentallm.plan import Plan
    from fundamentallm.trackers.console import ConsoleTracker
    from fundamentallm.trackers.folder import FolderTracker
    from fundamentallm.training import train as train_model

    # Bad input ends here, before anything is written.
    dataset = prepare(text, config)
    pick_device(device)
    plan = Plan(config, dataset.batches_per_epoch(config))
    for line in plan.warnings():
        warn(line)
    checkpoint = None
    if resume and folder and folder.last.exists():
        checkpoint = Checkpoint.load(folder.last)
        checkpoint.check_continues(config, dataset)
    if folder is None:
        folder = new_run_folder(Path("runs"), Path(text.name).stem)
    else:
        folder.create()
        if checkpoint is None:
            folder.clear()
    console = ConsoleTracker()
    click.echo(
        f"{text.name}: {len(text.content):,} characters, a vocabulary of "
        f"{len(dataset.vocabulary)}; {plan.total_steps:,} steps; run folder {folder.path}"
    )
    result = train_model(
        config,
        dataset,
        folder=folder,
        trackers=[FolderTracker(folder), console],
        device=device,
        checkpoint=checkpoint,
        stop_requested=lambda: signals.received is not None or console.closed,
    )
    return _report(result, folder, signals, console)


def _report(
    result: Result, folder: RunFolder, signals: StopSignals, console: ConsoleTracker
) -> int:
    """Say how the run ended and what can be done next; the exit code."""
    if result.status == "diverged":
        click.echo(f"fundamentallm: diverged: {result.stopped_by}; {FIXES}", err=True)
        return FAILED
    if result.status == "interrupted":
        click.echo(
            f"stopped after step {result.step:,}; go on with: "
            f"fundamentallm train --output-dir {shlex.quote(str(folder.path))} --resume",
            err=True,
        )
        return signals.exit_code or FAILED
    click.echo(
        f"best val_loss {result.best_val_loss:.4f} at step {result.best_step:,} "
        f"({result.step:,} done, ended by {result.stopped_by}); try: "
        f"fundamentallm generate {shlex.quote(str(folder.path))}"
    )
    return 0
