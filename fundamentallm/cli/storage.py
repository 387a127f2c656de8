"""Where a sweep's runs are kept: what was typed, what the environment says, or beside the runs."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from fundamentallm.cli.messages import notice, place, warn
from fundamentallm.files.consent import remember, was_asked
from fundamentallm.machine.system_limits import open_enough_files
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.store.address import StorageAddress
from fundamentallm.sweep.store.sweep_folder import SweepFolder

if TYPE_CHECKING:
    from fundamentallm.sweep.store.definition import SweepDefinition
    from fundamentallm.sweep.store.run_store import RunStore

STORAGE = "FUNDAMENTALLM_STORAGE"
LEASE = "FUNDAMENTALLM_LEASE"
LEASE_SECONDS = 60.0


def storage_url(typed: str | None, folder: SweepFolder) -> str:
    """Where the sweep's runs are kept: what was typed, the environment's, or what the folder says.

    Raises:
        SweepError: A password was typed, where every user of the machine could read it; it is no
            address; or the folder alone names a server, and not this user gave it that.
    """
    if typed and StorageAddress.parse(typed).has_secret:
        raise SweepError(
            f"--storage: leave out the password, because others can read command lines; set "
            f"{STORAGE} to the whole address, or give the password in PGPASSWORD or ~/.pgpass"
        )
    url = typed or os.environ.get(STORAGE)
    address = StorageAddress.parse(url or folder.url)  # refuses what it does not know
    if not (url or address.is_local or was_asked(folder.path, storage=address.kept)):
        raise SweepError(
            f"{place(folder.storage)} names a server, {address.shown}, that you have not "
            "confirmed on this machine; if you trust it, add --storage with the address in the "
            f"file, or set {STORAGE}"
        )
    return url or folder.url


def study_name(url: str, folder: SweepFolder) -> str:
    """The sweep's name in its storage: that of its folder, which may have been renamed since."""
    if url == folder.local_url and folder.database.exists():
        with suppress(sqlite3.Error), closing(folder.connect()) as held:
            names = [name for (name,) in held.execute("SELECT study_name FROM studies")]
            if len(names) == 1:
                return str(names[0])
    return folder.name


def check_storage(url: str, folder: SweepFolder, *, joining: bool = False) -> None:
    """See that the runs that are there are not kept elsewhere: they would be written over.

    SQLite is beside the runs or nowhere, for nobody would find it again elsewhere. Who is `joining`
    may name a server by another address: that it has the sweep will be seen.

    Raises:
        SweepError: They are, or SQLite is to be elsewhere.
    """
    there = folder.storage.exists() or folder.database.exists()
    known, asked = StorageAddress.parse(folder.url), StorageAddress.parse(url)
    on_servers = not (known.is_local or asked.is_local)
    if there and known.kept != asked.kept and not (joining and on_servers):
        raise SweepError(
            f"{folder.path}: its runs are stored in {known.shown}, but --storage or {STORAGE} "
            f"names {asked.shown}; leave out --storage, unset {STORAGE} and resume with "
            f"fundamentallm agent {place(folder.path)}, or give another --output-dir"
        )
    if asked.is_local and asked != StorageAddress.parse(folder.local_url):
        raise SweepError(
            f"--storage or {STORAGE} names {asked.shown}, but SQLite is stored only in the "
            "sweep's folder; leave it out, or give postgresql://USER@HOST/DATABASE"
        )


def remember_storage(store: RunStore, folder: SweepFolder) -> None:
    """Write down where the sweep is kept, if not beside its runs; without a password.

    Once: who comes later may know the server by a name that means nothing to others. That this user
    chose it is noted each time.
    """
    if store.database.is_local:
        return
    if not folder.storage.exists():
        folder.write_storage(store.database.address.kept)
    if reason := remember(folder.path, storage=store.database.address.kept):
        warn(reason)


@contextmanager
def opened(
    url: str, folder: SweepFolder, *, minutes: float = 0.0
) -> Iterator[tuple[SweepDefinition, RunStore]]:
    """Open a sweep that is there: its definition and its store; `minutes` is how long to wait.

    Raises:
        SweepError: It is not, or its runs are kept elsewhere.
    """
    from fundamentallm.sweep.store.run_store import RunStore, read_study

    open_enough_files()
    if url.startswith("sqlite") and not folder.database.exists():
        raise SweepError(
            f"{folder.path}: no sweep found; give the folder that fundamentallm sweep created, or "
            "--storage if it was created on another machine"
        )
    folder.check_is_ours()
    check_storage(url, folder, joining=True)
    name, wait = study_name(url, folder), 60 * minutes
    definition, _ = read_study(url, name, wait=wait, notify=notice)
    folder.create()
    goal = definition.sweep.ranks_by.goal
    store = RunStore(
        url, name, folder.path, lease=definition.lease, goal=goal, wait=wait, notify=notice
    )
    try:
        remember_storage(store, folder)
        yield definition, store
    finally:
        store.close()


def lease_seconds() -> float:
    """After how long a worker of which nothing is heard has lost its runs.

    Raises:
        SweepError: The environment gives no such time.
    """
    typed = os.environ.get(LEASE, "")
    if typed and not (typed.isascii() and typed.isdigit() and len(typed) < 10 and int(typed) >= 3):
        raise SweepError(f"{LEASE}={typed}: give whole seconds, 3 or more")
    return float(typed or LEASE_SECONDS)
