"""The settings that all runs of a sweep share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from fundamentallm.cli.hyperparameter_options import HyperparameterCommand
from fundamentallm.cli.options import PATH, device_option, train_options
from fundamentallm.cli.train_request import Request
from fundamentallm.config.parsing import DATA_KEYS
from fundamentallm.config.presets import PRESETS
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.program import words_of_every_run
from fundamentallm.sweep.search.space import hyperparameter_name

OF_ONE_RUN = {"data", "output_dir", "resume", "overwrite"}
"""Flags that `train` has and that do not define the settings of a sweep's runs."""


@click.command(cls=HyperparameterCommand, add_help_option=False)
@train_options
def _flags_in_file(**values: Any) -> None:
    """The flags that a sweep file's `command` may have."""


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


def read_every_run(sweep: SweepFile, words: Sequence[str]) -> EveryRun:
    """What the file's command and, stronger, `words` give to every run.

    What a preset or a --config sets gives way to the sweep's own values, as in a run on W&B.
    Mistakes in the file's command go to `sweep.findings`.

    Raises:
        click.UsageError: A flag among `words` is unknown, or not one for every run.
    """
    try:
        own = _parsed(_flags_in_file, words_of_every_run(sweep))
    except click.UsageError as error:
        sweep.findings.error(("command",), error.format_message())
        own = _parsed(_flags_in_file, [])
    given = _parsed(_flags_of_every_run, words)
    stronger = {name: value for name, value in given.items() if value}
    if own["output_dir"]:
        left_out = "--output-dir is ignored: runs are written to the sweep's folder"
        sweep.findings.warn(("command",), left_out)
    flags = {**own, **stronger}
    request = Request.from_flags({name: flags[name] for name in flags.keys() - OF_ONE_RUN})
    settings = request.settle()
    config_data = settings.get("data")
    searched = {hyperparameter_name(parameter) for parameter in sweep.parameters}
    for name in (*DATA_KEYS, *(searched - request.typed.keys())):
        settings.pop(name, None)
    return EveryRun(settings, request.device, own["data"], config_data)


def _parsed(command: click.Command, words: Sequence[str]) -> dict[str, Any]:
    normalize = {"token_normalize_func": lambda token: token.replace("_", "-")}
    return command.make_context("-- FLAGS", list(words), **normalize).params  # pyright: ignore
