"""`fundamentallm list`: sweeps and runs, and how far they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fundamentallm.cli.json_output import json_option, show_json
from fundamentallm.cli.messages import display_path, show, warn
from fundamentallm.cli.options import PATH
from fundamentallm.cli.result_sources import read_sources
from fundamentallm.errors import FundamentallmError, one_line
from fundamentallm.metrics import score_text
from fundamentallm.sweep.store.sweep_folder import is_sweep

if TYPE_CHECKING:
    from fundamentallm.report.overview import Progress

RUNS = "runs"
"""Folder of sweeps and runs, unless the user gives another."""


@click.command("list")
@click.argument("folder", required=False, type=PATH, metavar="[FOLDER]")
@json_option
def list_(folder: str | None, as_json: bool) -> int:
    """List sweeps and runs with their state and best score.

    FOLDER holds them; by default it is runs. Of a sweep's own folder, every run is listed too.
    """
    if folder is not None and not os.path.isdir(folder):
        raise FundamentallmError(f"{folder}: no such folder; give one that holds sweeps or runs")
    found = list(_progress(Path(folder or RUNS)))
    if as_json:
        sweeps, runs = (
            [_fields(each) for each in found if each.is_sweep is s] for s in (True, False)
        )
        show_json({"sweeps": sweeps, "runs": runs})
    elif found:
        _print([_cells(each) for each in found])
    else:
        show(f"{folder or RUNS}: no sweep and no run in it", err=True)
    return 0


def _progress(folder: Path) -> Iterator[Progress]:
    """Yield the progress of each sweep and run; what cannot be read only warns."""
    from fundamentallm.report.overview import find_sweeps_and_runs, of_run

    for path in find_sweeps_and_runs(folder):
        try:
            if is_sweep(path):
                yield from _of_sweep(path, with_runs=path == folder)
            else:
                yield of_run(path)
        except FundamentallmError as error:
            warn(f"{display_path(path)}: {one_line(error)}")


def _of_sweep(path: Path, *, with_runs: bool) -> Iterator[Progress]:
    """Yield the progress of a sweep, and then of its runs."""
    from fundamentallm.report.overview import find_sweeps_and_runs, of_new_sweep, of_run, of_sweep

    folders = [
        each for name in sorted(os.listdir(path)) for each in find_sweeps_and_runs(path / name)
    ]
    if not folders:
        yield of_new_sweep(path)
        return
    results = read_sources([str(path)], "")
    yield of_sweep(path, results)
    if with_runs:
        for folder in folders:
            yield of_run(folder, results.metric)


def _fields(progress: Progress) -> dict[str, object]:
    fields = {**asdict(progress), "folder": str(progress.folder)}
    del fields["is_sweep"]
    return fields


def _cells(progress: Progress) -> tuple[str, ...]:
    unit = "runs" if progress.is_sweep else "steps"
    of = "" if progress.total is None else f" of {progress.total:,}"
    best = "" if progress.best is None else f"{progress.metric} {score_text(progress.best)}"
    if progress.best_run:
        best += f" ({progress.best_run})"
    return display_path(progress.folder), progress.state, f"{progress.done:,}{of} {unit}", best


def _print(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        show("  ".join(padded).rstrip())
