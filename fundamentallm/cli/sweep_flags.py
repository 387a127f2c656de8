"""The settings that all runs of a sweep share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from fundamentallm.cli.hyperparameter_options import HyperparameterCommand
from fundamentallm.cli.options import PATH, device_option, train_options
from fundamentallm.cli.train_request import TrainRequest
from fundamentallm.config.parsing import DATA_KEYS
from fundamentallm.config.presets import PRESETS
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.program.ownership import words_of_every_run
from fundamentallm.sweep.search.space import hyperparameter_names

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
def _flags_for_every_run(**values: Any) -> None:
    """The flags that may follow `--`."""


class SharedSettings(NamedTuple):
    """Settings that all runs of a sweep share, from the file's `command` and flags after `--`."""

    settings: dict[str, Any]
    device: str
    data: str | None
    """Text that `command` names, if any."""
    config_data: str | None
    """Text that --config names, with the lowest precedence."""


def read_shared_settings(sweep: SweepFile, words: Sequence[str]) -> SharedSettings:
    """Return what the file's command and, with precedence, `words` set for every run.

    The sweep's values override those of a preset or --config, as in a run on W&B.
    Mistakes in the file's command go to `sweep.diagnostics`.

    Raises:
        click.UsageError: A flag in `words` is unknown or cannot apply to every run.
    """
    try:
        from_file = _parsed(_flags_in_file, words_of_every_run(sweep))
    except click.UsageError as error:
        sweep.diagnostics.error(("command",), error.format_message())
        from_file = _parsed(_flags_in_file, [])
    parsed = _parsed(_flags_for_every_run, words)
    typed = {name: value for name, value in parsed.items() if value}
    if from_file["output_dir"]:
        left_out = "--output-dir is ignored: runs are written to the sweep's folder"
        sweep.diagnostics.warn(("command",), left_out)
    flags = {**from_file, **typed}
    request = TrainRequest.from_flags({name: flags[name] for name in flags.keys() - OF_ONE_RUN})
    settings = request.resolve_settings()
    config_data = settings.get("data")
    searched = {name for each in sweep.parameters for name in hyperparameter_names(each)}
    for name in (*DATA_KEYS, *(searched - request.typed.keys())):
        settings.pop(name, None)
    return SharedSettings(settings, request.device, from_file["data"], config_data)


def _parsed(command: click.Command, words: Sequence[str]) -> dict[str, Any]:
    normalize = {"token_normalize_func": lambda token: token.replace("_", "-")}
    return command.make_context("-- FLAGS", list(words), **normalize).params  # pyright: ignore
