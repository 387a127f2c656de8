"""Output streams that survive the loss of their terminal, as when a window or ssh session closes.

SIGHUP, which comes with it unless ignored, decides whether the program ends. Later output is
discarded.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO


class _Terminal(io.FileIO):
    """File of a terminal that discards writes once the terminal is lost (EIO)."""

    def write(self, data: Any, /) -> int:
        """Write as usual, or discard."""
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        return memoryview(data).nbytes


def survive_terminal_loss() -> None:
    """Make stdout and stderr survive the loss of their terminal."""
    sys.stdout = _surviving(sys.stdout)
    sys.stderr = _surviving(sys.stderr)


def _surviving(stream: TextIO) -> TextIO:
    """Return a surviving stream over the same terminal; other streams unchanged."""
    if not (isinstance(stream, io.TextIOWrapper) and stream.isatty()):
        return stream
    stream.flush()
    file = _Terminal(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(file), stream.encoding, stream.errors, line_buffering=True
    )
