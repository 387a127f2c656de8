"""`fundamentallm tune`: from a text and a budget to a tuned model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fundamentallm import exit_codes
from fundamentallm.cli.messages import show
from fundamentallm.cli.options import PATH, device_option
from fundamentallm.cli.signals import StopSignals
from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.builtin_corpus import BUILTIN
from fundamentallm.status import RunStatus

if TYPE_CHECKING:
    from fundamentallm.data.text import Text
    from fundamentallm.tune.tune_folder import Request, TuneFolder

LEAST_CHARACTERS = 20
"""Length of the shortest text that any shape can be trained on."""


@click.command()
@click.argument("data", required=False, type=PATH, metavar="[DATA.TXT]")
@click.option(
    "--hours", type=click.FloatRange(0, min_open=True), metavar="H", help="Spend H hours."
)
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), metavar="M", help="Spend M minutes."
)
@click.option(
    "--runs",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="Spend the steps of N runs of the defaults, not a time.",
)
@click.option(
    "--max-parameters",
    type=click.IntRange(1),
    metavar="N",
    help="Train no model with more weights.",
)
@click.option(
    "--max-memory",
    type=click.FloatRange(0, min_open=True),
    metavar="GB",
    help="Use no more memory in all runs together.  [default: what is free]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1000),
    default=0,
    metavar="N",
    help="Seed the search and the runs.  [default: 0]",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Run N at a time at most.  [default: measured]",
)
@click.option(
    "--output-dir",
    type=PATH,
    metavar="DIR",
    help="Write the tuning to DIR.  [default: runs/tune-NAME]",
)
@device_option()
def tune(
    data: str | None,
    hours: float | None,
    minutes: float | None,
    runs: float | None,
    max_parameters: int | None,
    max_memory: float | None,
    seed: int,
    workers: int | None,
    output_dir: str | None,
    device: str,
) -> int:
    """Tune and train a model of DATA.TXT within a budget.

    It measures this machine, compares sizes, searches the hyperparameters, and trains the best
    with what is left. Run the same command again to resume it; a larger budget continues it.
    """
    started_at = time.monotonic()
    if sum(each is not None for each in (hours, minutes, runs)) != 1:
        raise click.UsageError("give one budget: --hours H, --minutes M or --runs N")
    from fundamentallm.data.text import DataError, read_lasting_text
    from fundamentallm.tune.budget import Budget
    from fundamentallm.tune.tune_folder import Request, TuneFolder

    text = read_lasting_text(data)
    if text.length < LEAST_CHARACTERS:
        raise DataError(
            f"{text.name}: {text.length} characters are too few; give at least {LEAST_CHARACTERS}"
        )
    is_file = data is not None and data != BUILTIN
    request = Request(
        text=str(Path(text.name).absolute()) if is_file else None,
        text_name=text.name,
        sha256=text.sha256,
        budget=Budget(minutes=60 * hours if hours else minutes or 0.0, runs=runs or 0.0),
        max_parameters=max_parameters,
        max_memory_gb=max_memory,
        seed=seed,
        device=device,
    )
    name = f"tune-{Path(text.name).stem}" if is_file else f"tune-{BUILTIN}"
    folder = TuneFolder(output_dir or Path("runs") / name)
    return _tune(folder, request, text, workers, started_at)


def _tune(
    folder: TuneFolder, request: Request, text: Text, workers: int | None, started_at: float
) -> int:
    """Run the phases, and return the exit code."""
    from fundamentallm.cli.tuning import Phases, TuningStoppedError
    from fundamentallm.cli.tuning_result import command, conclude
    from fundamentallm.cli.worker import resources_here
    from fundamentallm.data.vocabulary import train_length, vocabulary_of
    from fundamentallm.tune.plan import TextFacts

    defaults = Config()
    facts = TextFacts(train_length(text, defaults.val_split), len(vocabulary_of(text, defaults)))
    resources = resources_here(workers, None, request.device, None)
    with (
        folder.opened(request, started_at=started_at) as tuning,
        tuning.clock_running(),
        StopSignals() as signals,
    ):
        phases = Phases.measured(tuning, facts, text.length, resources, signals)
        try:
            phases.run()
        except TuningStoppedError as stopped:
            show(f"stopped by {stopped}; resume with: {command(phases)}", err=True)
            return exit_codes.of_run(RunStatus.INTERRUPTED, str(stopped), in_sweep=True)
        return conclude(phases)
