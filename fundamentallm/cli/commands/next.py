"""`fundamentallm next`: the sweep that a sweep asks for."""

from __future__ import annotations

import click

from fundamentallm.cli.messages import write_out
from fundamentallm.cli.result_sources import (
    metric_option,
    read_sources,
    show_notes,
    sources_argument,
)


@click.command("next")
@sources_argument(many=False)
@metric_option
def next_(sources: tuple[str, ...], metric: str) -> int:
    """Print the sweep file to run next.

    It is narrower around the best, and wider where the best was at an edge. Redirect it to a
    file: fundamentallm next runs/lr > sweeps/next.yaml. A comment on each changed line gives the
    reason.
    """
    results = read_sources(sources, metric)
    from fundamentallm.report.next_sweep import next_sweep

    write_out(next_sweep(results))
    show_notes(results)
    return 0
