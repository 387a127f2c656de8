"""`fundamentallm report`: runs on one HTML page."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fundamentallm.cli.messages import say
from fundamentallm.cli.options import PATH
from fundamentallm.cli.report_file import NAME, write
from fundamentallm.cli.result_sources import metric_option, places_argument, results_of, say_notes
from fundamentallm.files.atomic import followed
from fundamentallm.status import RunStatus
from fundamentallm.sweep.check.warnings import size
from fundamentallm.sweep.search.space import SearchSpace

if TYPE_CHECKING:
    from fundamentallm.report.results import Results, RunResult


@click.command()
@places_argument(many=True)
@metric_option
@click.option(
    "--output",
    type=PATH,
    metavar="FILE",
    help="Write the page to FILE.  [default: report.html in the folder, or here]",
)
@click.option(
    "--watch",
    type=click.IntRange(1),
    is_flag=False,
    flag_value=30,
    metavar="SECONDS",
    help="Rewrite the page while runs are in progress; give it last.  [30 if no number follows]",
)
def report(places: tuple[str, ...], metric: str, output: str | None, watch: int | None) -> int:
    """Show runs on one HTML page that opens in any browser, offline.

    SWEEP_OR_RUNS are folders of sweeps or runs, or one sweep on W&B: ENTITY/PROJECT/SWEEP.
    """
    file = followed(Path(output)) if output else _default_file(places)
    before = 0
    while True:
        results = results_of(places, metric)
        going_on = bool(watch) and _goes_on(results, before)
        before = len(results.runs)
        write(results, file, refresh=watch if watch and going_on else 0)
        say(f"{file}: {len(results.runs)} runs")
        say_notes(results)
        if not going_on:
            return 0
        time.sleep(watch or 0)


def _goes_on(results: Results, before: int) -> bool:
    """Whether a run is in progress, or there may be more than the `before` of the last look.

    How many there will be is not known: points may be impossible, and others may stop the sweep.
    """
    if any(run.status == RunStatus.UNFINISHED and not _is_gone(run) for run in results.runs):
        return True
    if results.sweep is None or len(results.runs) == before:
        return False
    runs, _ = size(SearchSpace(results.sweep, {}))
    return runs is None or len(results.runs) < runs


def _is_gone(run: RunResult) -> bool:
    """Whether the process that a run says it is in has ended, on this machine, without a word."""
    process = run.summary.get("process")
    if run.summary.get("host") != socket.gethostname() or type(process) is not int:
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # it is somebody else's
        return False
    return False


def _default_file(places: tuple[str, ...]) -> Path:
    """In the folder that is shown, if it is one; else here."""
    folder = Path(places[0])
    if len(places) == 1 and folder.is_dir() and os.access(folder, os.W_OK):
        return folder / NAME
    return Path(NAME)
