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
        self.waits = False
        """Whether room is waited for."""
        self.since = math.inf
        """When the trouble began; that something small can be written does not end it."""

    def trouble(self, reason: str) -> None:
        """A run could not write.

        Raises:
            DiskError: No run could, for longer than anyone wants to wait.
        """
        if time.monotonic() - self.since > self.patience:
            raise DiskError(self._advice(reason))
        self.since = min(self.since, time.monotonic())
        if not self.waits:
            self.waits = True
            self.say(f"{reason}; waiting until it can be")

    def relief(self) -> None:
        """A run has written all that it had to."""
        self.since = math.inf

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
        self.waits = False
        return True

    def probe(self) -> None:
        """Write as much as the largest checkpoint so far, and take it away again.

        Raises:
            DiskError: It cannot be written.
        """
        probe = self.folder / f".writable-{os.getpid()}"
        sizes = [file.stat().st_size for file in self.folder.glob("run-*/last.pt")]
        block = bytes(PROBE_BYTES)
        with writing(probe):
            try:
                with probe.open("wb") as file:
                    for _ in range(max(1, -(-max(sizes, default=0) // PROBE_BYTES))):
                        file.write(block)
            finally:
                probe.unlink(missing_ok=True)

    def _advice(self, reason: str) -> str:
        return f"{reason}; make room, and go on with: fundamentallm agent {self.folder}"
