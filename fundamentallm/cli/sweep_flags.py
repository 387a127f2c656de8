"""The settings that all runs of a sweep share, and whether our trainer can run the sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from fundamentallm.cli.messages import warn
from fundamentallm.cli.options import HyperparameterCommand
from fundamentallm.cli.request import Request
from fundamentallm.sweep.findings import SweepError
from fundamentallm.sweep.points import check_points, fixed_flags, is_ours
from fundamentallm.sweep.spec import Sweep


@click.command(cls=HyperparameterCommand, add_help_option=False)
@click.option("--preset")
@click.option("--config", "config_file")
@click.option("--device", default="auto")
def _flags_of_every_run(**values: Any) -> None:
    """The flags that may follow `--`."""


def read_fixed(sweep: Sweep, words: Sequence[str]) -> tuple[dict[str, Any], str]:
    """The settings that every run has, and its device, from the file's command and from `words`.

    What a preset or a --config sets gives way to the sweep's own values, as in a run on W&B.

    Raises:
        click.UsageError: A flag is unknown, or not one for every run.
    """
    arguments = [*fixed_flags(sweep), *words]
    normalize = {"token_normalize_func": lambda token: token.replace("_", "-")}
    context = _flags_of_every_run.make_context("-- FLAGS", arguments, **normalize)  # pyright: ignore
    params = dict(context.params)
    preset, config_file = params.pop("preset"), params.pop("config_file")
    device = params.pop("device")
    typed = {name: given for name, given in params.items() if given}
    request = Request(
        typed, output_dir=None, preset=preset, config_file=config_file, resume=False,
        overwrite=False, device=device, no_wandb=True, log_model=None, sweep=None,
    )  # fmt: skip
    settings = request.settle()
    given = {parameter.path[-1].replace("-", "_") for parameter in sweep.parameters} - set(typed)
    for name in ("data", "data_sha256", *given):
        settings.pop(name, None)
    return settings, device


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
