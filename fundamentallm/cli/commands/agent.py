"""`fundamentallm agent`: one more worker for a sweep, from another terminal or another machine."""

from __future__ import annotations

import shlex
from typing import Any

import click

from fundamentallm.cli.keeping import keep_option
from fundamentallm.cli.options import PATH, worker_options
from fundamentallm.cli.program_sweep import check_program_allowed
from fundamentallm.cli.result_sources import refuse_wandb
from fundamentallm.cli.storage import open_sweep, storage_url
from fundamentallm.cli.sweep_texts import local_text
from fundamentallm.cli.wandb_runs import check_client, with_allowed_wandb
from fundamentallm.cli.worker import check_file, work
from fundamentallm.sweep.store.sweep_folder import SweepFolder


@click.command()
@click.argument("folder", metavar="SWEEP", type=PATH)
@click.option("--data", type=PATH, metavar="DATA.TXT", help="Read the sweep's text from here.")
@click.option(
    "--wandb",
    metavar="DESTINATION",
    help="Send runs to this destination on W&B; off sends none.  [default: as chosen before]",
)
@click.option(
    "--file",
    type=PATH,
    metavar="SWEEP.YAML",
    help="Confirm the program of a sweep that others created, by its file.",
)
@keep_option
@worker_options
def agent(
    folder: str,
    data: str | None,
    file: str | None,
    wandb: str | None,
    storage: str | None,
    **options: Any,
) -> int:
    """Add a worker to a sweep that `fundamentallm sweep` created.

    SWEEP is the sweep's folder. On another machine it need not exist: give the same last name, and
    the sweep's database as --storage.
    """
    if storage is None:
        refuse_wandb(folder, f"start runs with wandb agent {shlex.quote(folder)}")
    sweep_folder = SweepFolder(folder)
    with open_sweep(storage_url(storage, sweep_folder), sweep_folder, minutes=options["wait"]) as (
        definition,
        store,
    ):
        if definition.program is None:
            data = local_text(definition, data)
        elif data is not None:
            raise click.UsageError("--data: this sweep starts its own program; leave it out")
        check_program_allowed(definition, sweep_folder, file)
        definition = with_allowed_wandb(definition, sweep_folder, wandb)
        check_client(definition)
        check_file(sweep_folder, definition.sweep)
        return work(
            definition, store, sweep_folder, search=definition.search(), data=data, **options
        )
