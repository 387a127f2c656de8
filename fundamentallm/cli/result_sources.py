"""Sources of results given on the command line: folders, and sweeps on W&B."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import click

from fundamentallm.cli.messages import progress_line, show
from fundamentallm.cli.options import PATH
from fundamentallm.errors import FundamentallmError, one_line
from fundamentallm.status import IN_PROGRESS
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import read_sweep
from fundamentallm.sweep.store.sweep_folder import SweepFolder

if TYPE_CHECKING:
    from fundamentallm.report.read_runs import RunReader
    from fundamentallm.report.results import Results

ON_WANDB = re.compile(r"\w[\w.-]*/[^/\\#?%:]+/[\w-]+")
PAGE = re.compile(r"https?://[^/]+/([^/]+)/([^/]+)/sweeps/([\w-]+)/?(?:[?#].*)?")
"""Address of a sweep's page, as people copy it from a browser."""
MOST_NOTES = 10

metric_option = click.option(
    "--metric",
    default="",
    metavar="NAME",
    help="Compare runs by this metric.  [default: the sweep's own, else val_loss]",
)


def sources_argument(*, many: bool) -> Any:
    """Folders of runs or sweeps, and sweeps on W&B."""
    metavar = "SWEEP_OR_RUNS..." if many else "SWEEP"
    return click.argument("sources", nargs=-1, required=True, type=PATH, metavar=metavar)


def read_sources(sources: Sequence[str], metric: str) -> Results:
    """Read the runs that `sources` name.

    Raises:
        FundamentallmError: There is no run, or all have ended without the metric.
    """
    return _checked(_read(sources, metric), metric)


def read_wandb_source(address: str, metric: str) -> Results:
    """Read the sweep at `ENTITY/PROJECT/SWEEP` on W&B, even if there is a folder of this name.

    Raises:
        FundamentallmError: This is no such address; or as in `read_sources`.
    """
    address = plain_address(address)
    if not ON_WANDB.fullmatch(address):
        raise FundamentallmError(f"{address}: give a sweep on W&B: ENTITY/PROJECT/SWEEP")
    return _checked(_read_wandb(address, metric), metric)


def _checked(results: Results, metric: str) -> Results:
    runs = results.runs
    if metric and all(run.score is None and run.status not in IN_PROGRESS for run in runs):
        from fundamentallm.report.results import missing_metric_note

        note = missing_metric_note(runs, results.metric, results.sweep)
        raise FundamentallmError(f"{results.title}: {note}")
    return results


def _read(sources: Sequence[str], metric: str) -> Results:
    from fundamentallm.report.combine import combine

    sources = list(dict.fromkeys(map(plain_address, sources)))
    addresses = [source for source in sources if _is_on_wandb(source)]
    folders = [source for source in sources if source not in addresses]
    parts = [_read_folders(folders, metric)] if folders else []
    parts += [_read_wandb(address, metric) for address in addresses]
    return combine(parts, metric)


def _read_wandb(address: str, metric: str) -> Results:
    from fundamentallm.report.read_wandb import read_wandb_sweep

    with progress_line(f"{address}: ") as show_progress:
        return read_wandb_sweep(address, metric, progress=show_progress)


def read_live_sources(
    folders: Sequence[str], metric: str
) -> tuple[Callable[[RunReader], Results], Callable[[RunReader], Results]]:
    """Return functions that read folders which change: their runs, and also the stored runs.

    Folders without a run yet have no runs.
    """
    from fundamentallm.report.read_runs import NoRunsError, read_results

    def or_none(read: Callable[[RunReader], Results]) -> Callable[[RunReader], Results]:
        def reading(reader: RunReader) -> Results:
            try:
                return read(reader)
            except NoRunsError as error:
                return _without_runs(folders, metric, str(error))

        return reading

    return (
        or_none(lambda reader: read_results(folders, metric, reader=reader)),
        or_none(lambda reader: _read_folders(folders, metric, reader)),
    )


def _without_runs(folders: Sequence[str], metric: str, why: str) -> Results:
    """Return the results of a sweep that has not begun, or of an empty folder."""
    from fundamentallm.report.results import Results, choose_metric

    sweep = None
    if len(folders) == 1:
        with suppress(SweepError):
            sweep = read_sweep(Path(folders[0], "sweep.yaml"), Path(folders[0]))
    own = sweep.metric if sweep is not None else None
    title = Path(folders[0]).resolve().name
    return Results(title, choose_metric(metric, own), [], sweep, [why])


def _read_folders(sources: Sequence[str], metric: str, reader: RunReader | None = None) -> Results:
    from fundamentallm.report.read_runs import read_results

    results = read_results(sources, metric, reader=reader)
    folder = SweepFolder(sources[0])
    if len(sources) == 1 and folder.exists:
        return _with_stored_runs(results, folder)
    return results


def show_notes(results: Results) -> None:
    """Print what is missing or could not be read, a line each."""
    for note in results.notes[:MOST_NOTES]:
        show(f"note: {one_line(note)}", err=True)
    if len(results.notes) > MOST_NOTES:
        show(f"note: and {len(results.notes) - MOST_NOTES} more", err=True)


def refuse_wandb(source: str, instead: str) -> None:
    """Refuse a sweep on W&B in a command that takes only sweeps on this machine.

    Raises:
        FundamentallmError: It is the address of one; the message says what to do `instead`.
    """
    if _is_on_wandb(plain_address(source)):
        raise FundamentallmError(f"{source}: no such folder; for a sweep on W&B, {instead}")


def plain_address(source: str) -> str:
    """Return ENTITY/PROJECT/SWEEP of a sweep's page on W&B; any other source as it is."""
    page = PAGE.fullmatch(source)
    return unquote("/".join(page.groups())) if page else source


def _is_on_wandb(source: str) -> bool:
    """Return whether this is ENTITY/PROJECT/SWEEP and not a folder, not even a mistyped one.

    `wandb agent` leaves folders named by entity and project, so their existence proves nothing.
    """
    path = Path(source)
    if not ON_WANDB.fullmatch(source) or path.exists():
        return False
    mistyped = source.startswith("runs/") and Path("runs").exists()
    return not (mistyped or SweepFolder(path.parent).file.exists())


def _with_stored_runs(results: Results, folder: SweepFolder) -> Results:
    """Add the runs in the sweep's storage, or a note if it cannot be read."""
    from fundamentallm.cli.storage import STORAGE, study_name
    from fundamentallm.report.stored_runs import with_stored_runs
    from fundamentallm.sweep.store.run_store import read_study

    note, url = "", folder.url
    if folder.storage.exists():
        note = "runs that ended on other machines are left out: "
        own = results.sweep.ranks_by.name if results.sweep else "val_loss"
        if results.metric.name != own:
            note += f"only their {own} is known"
            return replace(results, notes=[*results.notes, note])
        if not os.environ.get(STORAGE):  # an untrusted folder must not choose the server
            note += f"set {STORAGE} to the address in {folder.storage}"
            return replace(results, notes=[*results.notes, note])
        url = os.environ[STORAGE]
    try:
        definition, runs = read_study(url, study_name(url, folder))
        return with_stored_runs(results, folder, definition.space, runs)
    except FundamentallmError as error:
        return replace(results, notes=[*results.notes, f"{note}{error}"])
