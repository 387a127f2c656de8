"""Locks of a sweep's workers, as a command sees them that only reads the sweep."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from fundamentallm.files.held_folder import HeldFolder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

OWNER = re.compile(r"(?P<host>.+):\d+:(?P<worker>[0-9a-f]{12})")
"""Owner of a trial, as `RunStore` writes it."""


def is_gone(folder: Path, owner: str) -> bool:
    """Return whether a worker of this machine has ended, whatever the storage says.

    It holds the lock of a file in `workers` while it is alive. Nothing is written: the sweep may be
    of others. A worker on another machine, or without such a file, counts as alive.
    """
    named = OWNER.fullmatch(owner)
    if fcntl is None or named is None or named["host"] != socket.gethostname():
        return False
    try:
        with (
            HeldFolder(folder / "workers", folder) as workers,
            workers.open(f"{named['worker']}.lock", "rb") as file,
        ):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held by the worker; or missing
        return False
    return True
