"""`fundamentallm pause` and `resume`: workers of a sweep start no new run, until they may again."""

from __future__ import annotations

import shlex

import click

from fundamentallm.cli.messages import display_path, show
from fundamentallm.cli.options import PATH
from fundamentallm.cli.steering import agent_command, steered, storage_option
from fundamentallm.sweep.store.sweep_folder import SweepFolder


@click.command()
@click.argument("folder", metavar="SWEEP", type=PATH)
@storage_option
def pause(folder: str, storage: str | None) -> int:
    """Start no new run of a sweep.

    Runs in progress finish. Workers on every machine then wait, until fundamentallm resume.
    """
    sweep_folder = SweepFolder(folder)
    with steered(sweep_folder, storage) as (_, store):
        from fundamentallm.sweep.store import steering

        steering.pause(store)
        path = display_path(sweep_folder.path)
        show(
            f"{path} is paused: runs in progress finish, no new one starts; go on with: "
            f"fundamentallm resume {shlex.quote(path)}"
        )
    return 0


@click.command()
@click.argument("folder", metavar="SWEEP", type=PATH)
@storage_option
def resume(folder: str, storage: str | None) -> int:
    """Let a paused sweep start runs again.

    Workers that wait do so within seconds.
    """
    sweep_folder = SweepFolder(folder)
    with steered(sweep_folder, storage) as (_, store):
        from fundamentallm.sweep.store import steering

        does = "is resumed" if steering.resume(store) else "was not paused"
        advice = f"workers that wait go on; add one with: {agent_command(sweep_folder)}"
        show(f"{display_path(sweep_folder.path)} {does}; {advice}")
    return 0
