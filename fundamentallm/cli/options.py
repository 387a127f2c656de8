"""Command-line options that several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import click

from fundamentallm.config.presets import PRESETS

DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?|mps")


class PathType(click.ParamType):
    """A path as it was typed; a leading `~` is the home folder, which shells leave in `--x=~/y`."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The path without `~`."""
        return os.path.expanduser(value)


PATH = PathType()


def device_option(default: str | None = "auto") -> Any:
    """`--device`, in a form that there can be; whether it is there is seen where torch is."""
    return click.option(
        "--device",
        default=default,
        metavar="DEVICE",
        callback=_check_device,
        help="auto, cpu, cuda, cuda:N or mps.",
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
            help="The run's folder.  [default: a new runs/NAME-N]",
        ),
        click.option(
            "--preset",
            type=click.Choice(list(PRESETS)),
            help="Start from a set of hyperparameters; flags change it.",
        ),
        click.option(
            "--config",
            "config_file",
            type=PATH,
            metavar="YAML",
            help="Start from a run's config.yaml.",
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
                help="Go on with the run in --output-dir, if there is one.",
            ),
            click.option("--no-wandb", is_flag=True, help="Keep the run on this machine."),
            click.option(
                "--log-model/--no-log-model",
                default=None,
                help="Send best.pt to W&B.  [default: yes, but not in a sweep]",
            ),
        )
    )


def _with_options(command: Any, *options: Callable[[Any], Any]) -> Any:
    for option in reversed(options):
        command = option(command)
    return command


def concurrency_options(command: Any) -> Any:
    """The flags that say how many runs there are at a time."""
    return _with_options(
        command,
        click.option(
            "--workers",
            type=click.IntRange(1),
            metavar="N",
            help="Runs at a time.  [default: decided from the first]",
        ),
        click.option(
            "--workers-per-gpu", type=click.IntRange(1), metavar="N", help="Runs at a time per GPU."
        ),
    )


def worker_options(command: Any) -> Any:
    """The flags that `sweep`, `agent` and `refine` have in common."""
    command = concurrency_options(command)
    return _with_options(
        command,
        click.option(
            "--count",
            type=click.IntRange(0),
            metavar="N",
            help="Run at most N more; 0 runs none.",
        ),
        click.option(
            "--retries",
            type=click.IntRange(0),
            default=0,
            metavar="N",
            help="How often a run that fails by an error of its own is tried again.  [default: 0]",
        ),
        click.option(
            "--wait",
            type=click.FloatRange(0),
            default=10.0,
            metavar="MINUTES",
            help="How long to wait for a disk that is full, or a database that is away, before the "
            "sweep stops.  [default: 10]",
        ),
        click.option(
            "--storage",
            metavar="URL",
            help="A PostgreSQL database, for workers on many machines; also FUNDAMENTALLM_STORAGE. "
            "[default: SQLite beside the runs]",
        ),
    )
