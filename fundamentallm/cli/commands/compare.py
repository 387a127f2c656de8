"""`fundamentallm compare`: what differs between runs."""

from __future__ import annotations

from typing import Any

import click

from fundamentallm.cli.json_output import json_option, show_json
from fundamentallm.cli.options import PATH
from fundamentallm.cli.result_sources import metric_option, read_sources, show_notes
from fundamentallm.printable import printable

NARROWEST = 12  # characters of a column, its borders included, in which a number can be read


@click.command()
@click.argument("runs", nargs=-1, required=True, type=PATH, metavar="RUN RUN...")
@metric_option
@json_option
def compare(runs: tuple[str, ...], metric: str, as_json: bool) -> int:
    """Compare runs: their settings, loss, speed and samples.

    Settings that are equal in all runs are left out.
    """
    results = read_sources(runs, metric)
    if len(results.runs) < 2:
        raise click.UsageError("got one run; give two or more to compare")
    from fundamentallm.report.comparison import compare_runs

    show_notes(results)
    rows = compare_runs(results)
    names = [run.name for run in results.runs]
    if as_json:
        show_json({row.name: dict(zip(names, row.values, strict=True)) for row in rows})
        return 0
    _print(rows, names)
    return 0


def _print(rows: list[Any], names: list[str]) -> None:
    """Tables, each of as many runs as fit side by side; text of a run without markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    label = max(len(row.name) for row in rows)
    at_once = max(1, (console.width - label) // NARROWEST)
    for first in range(0, len(names), at_once):
        some = slice(first, first + at_once)
        table = Table(show_lines=True)
        table.add_column("", min_width=label)
        for name in names[some]:
            table.add_column(Text(printable(name)), overflow="fold")
        for row in rows:
            table.add_row(Text(printable(row.name)), *(Text(text) for text in row.shown[some]))
        console.print(table)
