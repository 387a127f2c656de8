"""`fundamentallm report`: runs on one HTML page."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fundamentallm.cli.messages import show, warn
from fundamentallm.cli.options import PATH
from fundamentallm.cli.report_file import REPORT_NAME, save_report
from fundamentallm.cli.result_sources import (
    metric_option,
    read_sources,
    show_notes,
    sources_argument,
)
from fundamentallm.files.atomic import followed
from fundamentallm.metrics import runs_text
from fundamentallm.status import IN_PROGRESS, RunStatus
from fundamentallm.sweep.check.warnings import size

if TYPE_CHECKING:
    from fundamentallm.report.results import Results


@click.command()
@sources_argument(many=True)
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
def report(sources: tuple[str, ...], metric: str, output: str | None, watch: int | None) -> int:
    """Show runs on one HTML page that opens in any browser, offline.

    SWEEP_OR_RUNS are folders of sweeps or runs, or sweeps on W&B: ENTITY/PROJECT/SWEEP.
    """
    from fundamentallm.report.read_runs import NoAnswerError
    from fundamentallm.report.rules.progress import progress_of

    file = followed(Path(output)) if output else _default_file(sources)
    previous_count = 0
    while True:
        try:
            results = read_sources(sources, metric)
        except NoAnswerError as error:
            if not (watch and previous_count):
                raise
            warn(f"{error}; the page stays as it is")
            time.sleep(watch)
            continue
        in_progress = bool(watch) and _is_in_progress(results, previous_count)
        previous_count = len(results.runs)
        save_report(results, file, refresh=watch if watch and in_progress else 0)
        show(f"{file}: {progress_of(results) or runs_text(len(results.runs))}")
        show_notes(results)
        if not in_progress:
            return 0
        time.sleep(watch or 0)


def _is_in_progress(results: Results, previous_count: int) -> bool:
    """Return whether a run is in progress, or the sweep has more to run since `previous_count`.

    Their number is not certain: configurations may be impossible, or the sweep stopped elsewhere.
    """
    from fundamentallm.report.read_runs import is_alive

    unended = [run for run in results.runs if run.status in IN_PROGRESS]
    if any(run.status == RunStatus.RUNNING or is_alive(run.summary) is None for run in unended):
        return True
    space = results.space({})
    if space is None or len(results.runs) == previous_count:
        return False
    runs, _ = size(space)
    return runs is None or len(results.runs) < runs


def _default_file(sources: tuple[str, ...]) -> Path:
    """Return report.html in the folder shown, if there is only one; else here."""
    folder = Path(sources[0])
    if len(sources) == 1 and folder.is_dir() and os.access(folder, os.W_OK):
        return folder / REPORT_NAME
    return Path(REPORT_NAME)
