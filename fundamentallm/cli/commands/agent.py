"""`fundamentallm agent`: one more worker for a sweep, from another terminal or another machine."""

from __future__ import annotations

from typing import Any

import click

from fundamentallm.cli.options import PATH, worker_options
from fundamentallm.cli.storage import opened, storage_url
from fundamentallm.cli.sweep_texts import text_here
from fundamentallm.cli.wandb_runs import with_allowed_wandb
from fundamentallm.cli.worker import check_file, work
from fundamentallm.sweep.store.sweep_folder import SweepFolder


@click.command()
@click.argument("folder", metavar="SWEEP", type=PATH)
@click.option(
    "--data", type=PATH, metavar="DATA.TXT", help="Where the sweep's text lies on this machine."
)
@click.option(
    "--wandb",
    metavar="PLACE",
    help="Send runs to this place on W&B; off: nowhere.  [default: as you began the sweep]",
)
@worker_options
def agent(
    folder: str,
    data: str | None,
    wandb: str | None,
    storage: str | None,
    **options: Any,
) -> int:
    """Work on a sweep that `fundamentallm sweep` has begun; SWEEP is its folder.

    On another machine SWEEP need not be there: its last name is the sweep's, and --storage says
    where the sweep is kept.
    """
    place = SweepFolder(folder)
    with opened(storage_url(storage, place), place, minutes=options["wait"]) as (definition, store):
        data = text_here(definition, data)
        definition = with_allowed_wandb(definition, place, wandb)
        check_file(place, definition.sweep)
        return work(definition, store, place, search=definition.search(), data=data, **options)
