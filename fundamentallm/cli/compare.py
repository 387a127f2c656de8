"""`fundamentallm compare`: what differs between runs."""

from __future__ import annotations

import json
from typing import Any

import click

from fundamentallm.cli.results import metric_option, results_of


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...")
@metric_option
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def compare(runs: tuple[str, ...], metric: str, as_json: bool) -> int:
    """Show what differs between runs: settings, loss, speed, and what they wrote.

    Equal settings are left out.
    """
    results = results_of(runs, metric)
    if len(results.runs) < 2:
        raise click.UsageError("one run alone; give two or more to compare")
    from fundamentallm.report.comparison import compare_runs

    for note in results.notes[:5]:
        click.echo(f"note: {' '.join(note.split())}", err=True)
    rows = compare_runs(results)
    if as_json:
        names = [run.name for run in results.runs]
        content = {row.name: dict(zip(names, row.values, strict=True)) for row in rows}
        click.echo(json.dumps(content, indent=2))
        return 0
    _print(rows, [run.name for run in results.runs])
    return 0


def _print(rows: list[Any], names: list[str]) -> None:
    """A table; text of a run is shown as it is, without markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=True)
    table.add_column("")
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(Text(row.name), *(Text(text) for text in row.shown))
    Console().print(table)
