"""`fundamentallm stop`: runs of a sweep end early, with their scores so far."""

from __future__ import annotations

import click

from fundamentallm.cli.messages import show
from fundamentallm.cli.options import PATH
from fundamentallm.cli.steering import steered, storage_option
from fundamentallm.exit_codes import BAD_INPUT, DONE
from fundamentallm.status import RunStatus
from fundamentallm.sweep.store.records import STATUS_WORDS
from fundamentallm.sweep.store.sweep_folder import SweepFolder, run_folder_name


@click.command()
@click.argument("folder", metavar="SWEEP", type=PATH)
@click.argument("names", metavar="RUN...", nargs=-1, required=True, type=PATH)
@storage_option
def stop(folder: str, names: tuple[str, ...], storage: str | None) -> int:
    """Stop runs of a sweep early, wherever they run.

    RUN is a number, 4, or a folder, run-0004. Its worker saves the run within seconds, keeps its
    score so far, and starts the next one. The run is not retried.
    """
    sweep_folder, code = SweepFolder(folder), DONE
    with steered(sweep_folder, storage) as (_, store):
        from fundamentallm.sweep.store import steering

        for run in [steering.find_run(store, sweep_folder, name) for name in names]:
            name, was_waiting = run_folder_name(run.number), run.last.status == RunStatus.WAITING
            if steering.stop(store, run):
                does = "will not start" if was_waiting else "stops"
                show(f"{name} {does}: its worker ends it within seconds")
            else:
                status = store.runs().numbered(run.number).last.status
                show(f"{name} is not running: {STATUS_WORDS.get(status, status)}", err=True)
                code = BAD_INPUT
    return code
