"""The settings that all runs of a sweep share, and whether our trainer can run the sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import click

from fundamentallm.cli.messages import warn
from fundamentallm.cli.options import PATH, HyperparameterCommand, device_option
from fundamentallm.cli.request import Request
from fundamentallm.cli.train import train
from fundamentallm.given import DATA_KEYS
from fundamentallm.hyperparameters import HYPERPARAMETERS
from fundamentallm.presets import PRESETS
from fundamentallm.sweep.findings import SweepError
from fundamentallm.sweep.points import (
    check_points,
    hyperparameter_name,
    is_ours,
    words_of_every_run,
)
from fundamentallm.sweep.spec import Sweep


@click.command(cls=HyperparameterCommand, add_help_option=False)
@click.option("--preset", type=click.Choice(list(PRESETS)))
@click.option("--config", "config_file", type=PATH)
@device_option(None)
def _flags_of_every_run(**values: Any) -> None:
    """The flags that may follow `--`."""


class EveryRun(NamedTuple):
    """What all runs of a sweep share, as its file's `command` and the flags after `--` have it."""

    settings: dict[str, Any]
    device: str
    data: str | None
    """The text that `command` names, if any."""
    config_data: str | None
    """The text of a --config, which is weaker."""


def read_every_run(sweep: Sweep, words: Sequence[str]) -> EveryRun:
    """What the file's command and, stronger, `words` give to every run.

    What a preset or a --config sets gives way to the sweep's own values, as in a run on W&B.

    Raises:
        click.UsageError: A flag is unknown, or not one for every run.
    """
    own = _parsed(train, words_of_every_run(sweep), f"{sweep.file}: command: ")
    given = _parsed(_flags_of_every_run, words, "")
    stronger = {name: value for name, value in given.items() if value}
    if own["output_dir"]:
        warn(f"{sweep.file}: command: --output-dir is left out: runs lie in the sweep's folder")
    params = {**own, **stronger}
    typed = {name: params[name] for name in HYPERPARAMETERS if params[name]}
    request = Request(
        typed, output_dir=None, preset=params["preset"], config_file=params["config_file"],
        resume=False, overwrite=False, device=params["device"], no_wandb=True, log_model=None,
        sweep=None,
    )  # fmt: skip
    settings = request.settle()
    config_data = settings.get("data")
    searched = {hyperparameter_name(parameter) for parameter in sweep.parameters} - set(typed)
    for name in (*DATA_KEYS, *searched):
        settings.pop(name, None)
    return EveryRun(settings, params["device"], own["data"], config_data)


def _parsed(command: click.Command, words: Sequence[str], where: str) -> dict[str, Any]:
    normalize = {"token_normalize_func": lambda token: token.replace("_", "-")}
    try:
        return command.make_context("-- FLAGS", list(words), **normalize).params  # pyright: ignore
    except click.UsageError as error:
        if not where:
            raise
        raise click.UsageError(where + error.format_message(), error.ctx) from None


def check(sweep: Sweep, fixed: Mapping[str, Any]) -> None:
    """Print what the sweep's author should know, and refuse what cannot run.

    Raises:
        SweepError: The sweep is of another program, or our trainer could not run it.
    """
    if not is_ours(sweep):
        raise SweepError(
            f"{sweep.file}: it runs {sweep.program}, and only fundamentallm's own train.py can be "
            "run without W&B so far; the file itself is without mistakes"
        )
    findings = check_points(sweep, fixed)
    for each in (*sweep.warnings, *findings.warnings):
        warn(each.text(sweep.file))
    findings.raise_errors()
