"""Options and texts of the commands that steer a sweep: enqueue, stop, pause and resume."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from fundamentallm.cli.messages import display_path
from fundamentallm.cli.result_sources import refuse_wandb
from fundamentallm.cli.storage import open_sweep, storage_url
from fundamentallm.sweep.store.sweep_folder import SweepFolder

if TYPE_CHECKING:
    from fundamentallm.sweep.store.definition import SweepDefinition
    from fundamentallm.sweep.store.run_store import RunStore

storage_option = click.option(
    "--storage",
    metavar="URL",
    help="Find the sweep in this PostgreSQL database; also FUNDAMENTALLM_STORAGE.  "
    "[default: the one that its folder names]",
)


@contextmanager
def steered(folder: SweepFolder, storage: str | None) -> Iterator[tuple[SweepDefinition, RunStore]]:
    """Open a sweep to steer it: its definition and its store.

    Raises:
        SweepError: It does not exist, or its runs are stored elsewhere.
    """
    if storage is None:
        source = display_path(folder.path)
        refuse_wandb(source, "steer it on its page")
    with open_sweep(storage_url(storage, folder), folder) as opened:
        yield opened


def agent_command(folder: SweepFolder) -> str:
    """Return the command that starts a worker of the sweep."""
    return f"fundamentallm agent {shlex.quote(display_path(folder.path))}"
