"""Storage of a sweep's runs: as typed, from the environment, or in the sweep's folder."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from fundamentallm.cli.messages import display_path, notify, warn
from fundamentallm.files.consent import remember, was_asked
from fundamentallm.machine.system_limits import open_enough_files
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.store.address import StorageAddress
from fundamentallm.sweep.store.sweep_folder import SweepFolder

if TYPE_CHECKING:
    from fundamentallm.sweep.store.definition import SweepDefinition
    from fundamentallm.sweep.store.records import RunIndex
    from fundamentallm.sweep.store.run_store import RunStore

STORAGE = "FUNDAMENTALLM_STORAGE"
LEASE = "FUNDAMENTALLM_LEASE"
LEASE_SECONDS = 60.0


def storage_url(typed: str | None, folder: SweepFolder) -> str:
    """Return the storage's URL: as typed, from the environment, or from the folder.

    Raises:
        SweepError: A password was typed, which every user of the machine could read; the URL is
            invalid; or only the folder names a server, which this user has not confirmed.
    """
    if typed and StorageAddress.parse(typed).has_secret:
        raise SweepError(
            f"--storage: leave out the password, because others can read command lines; set "
            f"{STORAGE} to the whole address, or give the password in PGPASSWORD or ~/.pgpass"
        )
    url = typed or os.environ.get(STORAGE)
    address = StorageAddress.parse(url or folder.url)  # refuses unknown schemes
    if not (url or address.is_local or was_asked(folder.path, storage=address.kept)):
        raise SweepError(
            f"{display_path(folder.storage)} names a server, {address.shown}, that you have not "
            "confirmed on this machine; if you trust it, add --storage with the address in the "
            f"file, or set {STORAGE}"
        )
    return url or folder.url


def study_name(url: str, folder: SweepFolder) -> str:
    """Return the sweep's name in its storage: that of its folder before any renaming."""
    if url == folder.local_url and folder.database.exists():
        with suppress(sqlite3.Error), closing(folder.connect()) as held:
            names = [name for (name,) in held.execute("SELECT study_name FROM studies")]
            if len(names) == 1:
                return str(names[0])
    return folder.name


def check_storage(url: str, folder: SweepFolder, *, joining: bool = False) -> None:
    """Refuse a storage other than the one that the folder's runs are in.

    SQLite is allowed in the sweep's folder only, where it can be found again. When `joining`, a
    server may have another address; that it has the sweep is checked later.

    Raises:
        SweepError: It is another one, or SQLite elsewhere.
    """
    exists = folder.storage.exists() or folder.database.exists()
    stored, requested = StorageAddress.parse(folder.url), StorageAddress.parse(url)
    on_servers = not (stored.is_local or requested.is_local)
    if exists and stored.kept != requested.kept and not (joining and on_servers):
        raise SweepError(
            f"{folder.path}: its runs are stored in {stored.shown}, but --storage or {STORAGE} "
            f"names {requested.shown}; leave out --storage, unset {STORAGE} and resume with "
            f"fundamentallm agent {display_path(folder.path)}, or give another --output-dir"
        )
    if requested.is_local and requested != StorageAddress.parse(folder.local_url):
        raise SweepError(
            f"--storage or {STORAGE} names {requested.shown}, but SQLite is stored only in the "
            "sweep's folder; leave it out, or give postgresql://USER@HOST/DATABASE"
        )


def remember_storage(store: RunStore, folder: SweepFolder) -> None:
    """Record the server that holds the sweep, if any, without a password.

    Only the first address is recorded, because later ones may not work elsewhere. This user's
    consent is recorded each time.
    """
    if store.database.is_local:
        return
    if not folder.storage.exists():
        folder.write_storage(store.database.address.kept)
    if reason := remember(folder.path, storage=store.database.address.kept):
        warn(reason)


@contextmanager
def open_sweep(
    url: str, folder: SweepFolder, *, minutes: float = 0.0
) -> Iterator[tuple[SweepDefinition, RunStore]]:
    """Open an existing sweep: its definition and its store; wait up to `minutes`.

    Raises:
        SweepError: It does not exist, or its runs are stored elsewhere.
    """
    from fundamentallm.sweep.store.run_store import RunStore

    open_enough_files()
    definition, _ = read_sweep_here(url, folder, minutes=minutes)
    folder.create()
    name, wait = study_name(url, folder), 60 * minutes
    goal = definition.sweep.ranks_by.goal
    store = RunStore(
        url, name, folder.path, lease=definition.lease, goal=goal, wait=wait, notify=notify
    )
    try:
        remember_storage(store, folder)
        yield definition, store
    finally:
        store.close()


def read_sweep_here(
    url: str, folder: SweepFolder, *, minutes: float = 0.0
) -> tuple[SweepDefinition, RunIndex]:
    """Read the definition and the runs of a sweep that may be changed from here; write nothing.

    Raises:
        SweepError: It does not exist, or is of others, or its runs are stored elsewhere.
    """
    from fundamentallm.sweep.store.run_store import read_study

    if url.startswith("sqlite") and not folder.database.exists():
        raise SweepError(
            f"{folder.path}: no sweep found; give the folder that fundamentallm sweep created, or "
            "--storage if it was created on another machine"
        )
    folder.check_is_ours()
    check_storage(url, folder, joining=True)
    return read_study(url, study_name(url, folder), wait=60 * minutes, notify=notify)


def lease_seconds() -> float:
    """Return after how many silent seconds a worker loses its runs.

    Raises:
        SweepError: The environment's value is invalid.
    """
    typed = os.environ.get(LEASE, "")
    if typed and not (typed.isascii() and typed.isdigit() and len(typed) < 10 and int(typed) >= 3):
        raise SweepError(f"{LEASE}={typed}: give whole seconds, 3 or more")
    return float(typed or LEASE_SECONDS)
