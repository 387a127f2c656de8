"""`fundamentallm report`: runs on one HTML page."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fundamentallm.cli.results import metric_option, places_argument, results_of
from fundamentallm.errors import FundamentallmError
from fundamentallm.sweep.checking import size
from fundamentallm.sweep.points import Points

if TYPE_CHECKING:
    from fundamentallm.report.results import Results

NAME = "report.html"


@click.command()
@places_argument(many=True)
@metric_option
@click.option(
    "--output", metavar="FILE", help="The page.  [default: report.html in the folder, or here]"
)
@click.option(
    "--watch",
    type=click.IntRange(1),
    is_flag=False,
    flag_value=30,
    metavar="SECONDS",
    help="Write it again as runs go on, until all have ended.  [default: 30]",
)
def report(places: tuple[str, ...], metric: str, output: str | None, watch: int | None) -> int:
    """Show runs on one page that opens in any browser, without a network.

    SWEEP_OR_RUNS are folders of sweeps or runs, or one sweep on W&B, as ENTITY/PROJECT/SWEEP.
    """
    file = Path(output) if output else _default_file(places)
    while True:
        results = results_of(places, metric)
        going_on = bool(watch) and _goes_on(results)
        write(results, file, refresh=watch if watch and going_on else 0)
        click.echo(f"{file}: {len(results.runs)} runs")
        for note in results.notes[:5]:
            click.echo(f"note: {' '.join(note.split())}", err=True)
        if not going_on:
            return 0
        time.sleep(watch or 0)


def write(results: Results, file: Path, *, refresh: int = 0) -> None:
    """Write the page.

    Raises:
        FundamentallmError: That cannot be done.
    """
    from fundamentallm.report.page import write_report

    try:
        write_report(results, file, refresh=refresh)
    except OSError as error:
        raise FundamentallmError(
            f"--output {file}: cannot be written ({error.strerror or error})"
        ) from None


def _goes_on(results: Results) -> bool:
    """Whether a run is in progress, or the sweep has more to come."""
    ended = sum(run.status not in ("unfinished", "interrupted") for run in results.runs)
    if results.sweep is None:
        return ended < len(results.runs)
    runs, _ = size(Points(results.sweep, {}))
    return runs is None or ended < runs


def _default_file(places: tuple[str, ...]) -> Path:
    """In the folder that is shown, if it is one; else here."""
    folder = Path(places[0])
    if len(places) == 1 and folder.is_dir() and os.access(folder, os.W_OK):
        return folder / NAME
    return Path(NAME)
