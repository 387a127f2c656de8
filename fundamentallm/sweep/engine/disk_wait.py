"""What a sweep does when its disk is full: it starts nothing more until there is room again."""

from __future__ import annotations

import errno
import math
import os
import shutil
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

from fundamentallm.files.atomic import DiskError, writing
from fundamentallm.files.held_folder import HeldFolder

PROBE_BYTES = 1 << 20  # that can be written before a disk is not full any more


class DiskWait:
    """Whether a sweep's folder can be written, once that is in doubt."""

    def __init__(self, folder: Path, patience: float, say: Callable[[str], None]) -> None:
        """`patience`: seconds to wait for room."""
        self.folder, self.patience, self.say = folder, patience, say
        self.since = math.inf
        """When room began to be waited for."""
        self.failing: dict[int, float] = {}
        """Runs that could not write, and since when: what is free may be too little for them."""

    @property
    def waits(self) -> bool:
        """Whether room is waited for."""
        return math.isfinite(self.since)

    def trouble(self, run: int, reason: str) -> None:
        """A run could not write.

        Raises:
            DiskError: It could not for longer than anyone wants to wait.
        """
        now = time.monotonic()
        if now - self.failing.setdefault(run, now) > self.patience:
            raise DiskError(self._advice(reason))
        if not self.waits:
            self.since = now
            self.say(f"{reason}; waiting until it can be")

    def relief(self, run: int) -> None:
        """A run has written a checkpoint."""
        self.failing.pop(run, None)

    def has_room(self) -> bool:
        """Whether runs may be started.

        Raises:
            DiskError: There has been no room for longer than anyone wants to wait.
        """
        if not self.waits:
            return True
        try:
            self.probe()
        except DiskError as error:
            if time.monotonic() - self.since > self.patience:
                raise DiskError(self._advice(str(error))) from None
            return False
        self.say("the disk can be written again")
        self.since = math.inf
        return True

    def probe(self) -> None:
        """See that there is room for the largest checkpoint so far, and write a little.

        Raises:
            DiskError: There is not, or it cannot be written.
        """
        probe = f".writable-{os.getpid()}"
        with writing(self.folder / probe), HeldFolder(self.folder) as folder:
            kept = chain(*map(self.folder.glob, ("run-*/last.pt", ".run-*-left-*/last.pt")))
            largest = max(map(_size, kept), default=0)
            if shutil.disk_usage(self.folder).free < largest:
                raise DiskError(f"{self.folder}: {os.strerror(errno.ENOSPC)}")
            try:
                with folder.new(probe) as file:
                    file.write(bytes(PROBE_BYTES))
            finally:
                folder.remove(probe)

    def _advice(self, reason: str) -> str:
        return f"{reason}; make room, and go on with: fundamentallm agent {self.folder}"


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:  # it was there a moment ago
        return 0
