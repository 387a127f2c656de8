"""Command-line options that several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from fundamentallm.config.presets import PRESETS
from fundamentallm.sweep.file.bundled import bundled_sweeps, find_sweep_file

DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?|mps")


class PathType(click.ParamType):
    """A path; a leading `~` becomes the home folder, which shells do not do in `--x=~/y`."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the path with `~` expanded."""
        return os.path.expanduser(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Let the shell complete files and folders."""
        return [CompletionItem(incomplete, type="file")]


class SweepFileType(PathType):
    """A sweep file: a path, or the name of a bundled one."""

    name = "sweep file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the path of the file."""
        return find_sweep_file(super().convert(value, param, ctx))

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the bundled sweeps, unless a file or folder here begins like this."""
        names = [name for name in bundled_sweeps() if name.startswith(incomplete)]
        if not incomplete or any(name.startswith(incomplete) for name in os.listdir()):
            names = []
        return [CompletionItem(name) for name in names] or super().shell_complete(
            ctx, param, incomplete
        )


PATH = PathType()
SWEEP_FILE = SweepFileType()


def device_option(default: str | None = "auto") -> Any:
    """Return `--device`, which checks the form only: without torch nobody knows the devices."""
    return click.option(
        "--device",
        default=default,
        metavar="DEVICE",
        callback=_check_device,
        help="Use auto, cpu, cuda, cuda:N or mps.  [default: auto]",
    )


def _check_device(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not DEVICE.fullmatch(value):
        raise click.UsageError(f"--device {value}: give auto, cpu, cuda, cuda:N or mps", ctx)
    return value


def run_options(command: Any) -> Any:
    """Add the options that `train` and `find learning-rate` share."""
    return _with_options(
        command,
        click.argument("data", required=False, type=PATH, metavar="[DATA.TXT]"),
        click.option(
            "--output-dir",
            type=PATH,
            metavar="DIR",
            help="Write the run to DIR.  [default: a new runs/NAME-N]",
        ),
        click.option(
            "--preset",
            type=click.Choice(list(PRESETS)),
            help="Start from a set of hyperparameters; other flags override it.",
        ),
        click.option(
            "--config",
            "config_file",
            type=PATH,
            metavar="YAML",
            help="Start from the config.yaml of a run.",
        ),
        click.option("--overwrite", is_flag=True, help="Replace the run in --output-dir."),
        device_option(),
    )


def train_options(command: Any) -> Any:
    """Add the options of `train`, without the hyperparameters."""
    return run_options(
        _with_options(
            command,
            click.option(
                "--resume",
                is_flag=True,
                help="Resume the run in --output-dir, or start one there.",
            ),
            click.option("--no-wandb", is_flag=True, help="Send nothing to W&B."),
            click.option(
                "--log-model/--no-log-model",
                default=None,
                help="Send best.pt to W&B.  [default: yes, except in a sweep]",
            ),
        )
    )


def _with_options(command: Any, *options: Callable[[Any], Any]) -> Any:
    for option in reversed(options):
        command = option(command)
    return command


def concurrency_options(command: Any) -> Any:
    """Add the options that set how many runs are in progress at a time."""
    return _with_options(
        command,
        click.option(
            "--workers",
            type=click.IntRange(1),
            metavar="N",
            help="Run N at a time.  [default: measured on the first runs]",
        ),
        click.option(
            "--workers-per-gpu",
            type=click.IntRange(1),
            metavar="N",
            help="Run N at a time on each GPU.",
        ),
    )


def worker_options(command: Any) -> Any:
    """Add the options that `sweep`, `agent` and `refine` share."""
    return concurrency_options(
        _with_options(
            command,
            click.option(
                "--count",
                type=click.IntRange(0),
                metavar="N",
                help="Stop after N runs; 0 starts none.",
            ),
            click.option(
                "--retries",
                type=click.IntRange(0),
                default=0,
                metavar="N",
                help="Retry a failed run up to N times.  [default: 0]",
            ),
            click.option(
                "--wait",
                type=click.FloatRange(0),
                default=10.0,
                metavar="MINUTES",
                help="Wait this long for a full disk or a lost database.  [default: 10]",
            ),
            click.option(
                "--storage",
                metavar="URL",
                help="Share the sweep between machines in this PostgreSQL database; also "
                "FUNDAMENTALLM_STORAGE.  [default: SQLite in the sweep's folder]",
            ),
        )
    )
