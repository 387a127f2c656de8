"""Wait for a full disk: a sweep starts no more runs until there is room."""

from __future__ import annotations

import errno
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from fundamentallm.files.atomic import DiskError, writing
from fundamentallm.files.held_folder import HeldFolder
from fundamentallm.sweep.store.sweep_folder import checkpoints

PROBE_BYTES = 1 << 20
"""Bytes to write as proof that the disk has room."""


class DiskWait:
    """State of a sweep's disk, from the first write that fails."""

    def __init__(self, folder: Path, timeout: float, notify: Callable[[str], None]) -> None:
        """Wait at most `timeout` seconds for room."""
        self.folder, self.timeout, self.notify = folder, timeout, notify
        self.waiting_since = math.inf
        self.failing: dict[int, float] = {}
        """Start of the failures of each run that could not write: a run may need more room."""

    @property
    def is_waiting(self) -> bool:
        """Return whether no run may start until there is room."""
        return math.isfinite(self.waiting_since)

    def write_failed(self, run: int, reason: str) -> None:
        """Note that a run could not write.

        Raises:
            DiskError: It could not write for longer than `timeout`.
        """
        now = time.monotonic()
        if now - self.failing.setdefault(run, now) > self.timeout:
            raise DiskError(self._advice(reason))
        if not self.is_waiting:
            self.waiting_since = now
            self.notify(f"{reason}; waiting for room")

    def write_succeeded(self, run: int) -> None:
        """Note that a run has written a checkpoint."""
        self.failing.pop(run, None)

    def has_room(self) -> bool:
        """Return whether runs may start.

        Raises:
            DiskError: There was no room for longer than `timeout`.
        """
        if not self.is_waiting:
            return True
        try:
            self.probe()
        except DiskError as error:
            if time.monotonic() - self.waiting_since > self.timeout:
                raise DiskError(self._advice(str(error))) from None
            return False
        self.notify("the disk has room again")
        self.waiting_since = math.inf
        return True

    def probe(self) -> None:
        """Check that the largest checkpoint so far would fit, and write `PROBE_BYTES`.

        Raises:
            DiskError: The disk is too full or cannot be written.
        """
        with writing(self.folder), HeldFolder(self.folder) as folder:
            largest = max(map(_size, checkpoints(self.folder)), default=0)
            if shutil.disk_usage(self.folder).free < largest:
                raise DiskError(f"{self.folder}: {os.strerror(errno.ENOSPC)}")
            folder.probe(PROBE_BYTES)

    def _advice(self, reason: str) -> str:
        return f"{reason}; make room, then resume with: fundamentallm agent {self.folder}"


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:  # it was there a moment ago
        return 0
