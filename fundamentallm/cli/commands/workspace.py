"""`fundamentallm workspace`: a saved view and a report of a sweep, on W&B."""

from __future__ import annotations

import click

from fundamentallm.cli.messages import show
from fundamentallm.cli.options import PATH
from fundamentallm.cli.result_sources import (
    metric_option,
    plain_address,
    read_wandb_source,
    show_notes,
)
from fundamentallm.errors import FundamentallmError


@click.command()
@click.argument("address", metavar="ENTITY/PROJECT/SWEEP", type=PATH)
@metric_option
def workspace(address: str, metric: str) -> int:
    """Write a saved view and a report of a sweep to its project on W&B.

    The view shows this sweep alone, the best runs first; the report says what `explain` says. Run
    it again to replace both; rename one on W&B to keep it.
    """
    try:
        from fundamentallm.report.workspace import SweepAddress, save_report, save_view
    except ModuleNotFoundError as error:
        raise FundamentallmError(
            f"workspace needs {error.name}, which is not installed; "
            "pip install 'fundamentallm[workspace]'"
        ) from None
    from fundamentallm.trackers.wandb_api import WandbApi, address_and_key

    address = plain_address(address)
    results = read_wandb_source(address, metric)
    api, parts = WandbApi(*address_and_key()), SweepAddress(*address.split("/"))
    show(f"writing a saved view and a report to {parts.entity}/{parts.project} on W&B", err=True)
    view = save_view(results, parts, api)
    show(f"{'new' if view.is_new else 'updated'} view: {view.url}")
    report = save_report(results, parts, api, view)
    show(f"{'new' if report.is_new else 'updated'} report: {report.url}")
    show_notes(results)
    return 0
