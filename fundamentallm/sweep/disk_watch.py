"""What a sweep does when its disk is full: it starts nothing more until there is room again."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from fundamentallm.disk import DiskError, writing

PROBE_BYTES = 1 << 20  # that can be written before a disk is not full any more


class DiskWatch:
    """Whether a sweep's folder can be written, once that is in doubt."""

    def __init__(self, folder: Path, patience: float, say: Callable[[str], None]) -> None:
        """`patience`: seconds to wait for room."""
        self.folder, self.patience, self.say = folder, patience, say
        self.since = math.inf

    @property
    def waits(self) -> bool:
        """Whether room is waited for."""
        return math.isfinite(self.since)

    def trouble(self, reason: str) -> None:
        """A run could not write."""
        if not self.waits:
            self.since = time.monotonic()
            self.say(f"{reason}; waiting until it can be")

    def has_room(self) -> bool:
        """Whether runs may be started.

        Raises:
            DiskError: There has been no room for longer than anyone wants to wait.
        """
        if not self.waits:
            return True
        probe = self.folder / f".writable-{os.getpid()}"
        try:
            with writing(probe):
                try:
                    probe.write_bytes(bytes(PROBE_BYTES))
                finally:
                    probe.unlink(missing_ok=True)
        except DiskError as error:
            if time.monotonic() - self.since > self.patience:
                raise DiskError(
                    f"{error}; make room, and go on with: fundamentallm agent {self.folder}"
                ) from None
            return False
        self.say("the disk can be written again")
        self.since = math.inf
        return True
