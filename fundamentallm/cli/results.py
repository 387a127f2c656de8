"""From what was typed to `Results`: folders, or a sweep on W&B."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fundamentallm.report.results import Results

ON_WANDB = re.compile(r"[\w.-]+/[\w.-]+/[\w-]+")

metric_option = click.option(
    "--metric",
    default="",
    metavar="NAME",
    help="Compare by this.  [default: the sweep's, val_loss]",
)


def places_argument(*, many: bool) -> Any:
    """Folders of runs or sweeps, or one sweep on W&B."""
    metavar = "SWEEP_OR_RUNS..." if many else "SWEEP"
    return click.argument("places", nargs=-1, required=True, metavar=metavar)


def results_of(places: Sequence[str], metric: str) -> Results:
    """Read what `places` name.

    Raises:
        ReportError: There is no run.
    """
    if len(places) == 1 and ON_WANDB.fullmatch(places[0]) and not Path(places[0]).exists():
        from fundamentallm.report.read_wandb import read_wandb_sweep

        return read_wandb_sweep(places[0], metric)
    from fundamentallm.report.read_runs import read_results

    return read_results(places, metric)
