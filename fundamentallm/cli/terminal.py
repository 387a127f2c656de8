"""A terminal that vanishes, as when its window or an ssh session is closed, ends no program.

Whether the program goes on is for SIGHUP to say, which comes with it unless it is ignored. What is
written after that goes nowhere.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO


class _Terminal(io.FileIO):
    """The file of a terminal; one that has vanished (EIO) takes everything, in silence."""

    def write(self, data: Any, /) -> int:
        """Write what there is room for, as ever."""
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        return memoryview(data).nbytes


def outlive_the_terminal() -> None:
    """Let stdout and stderr, where they are a terminal, outlive it."""
    sys.stdout = _outliving(sys.stdout)
    sys.stderr = _outliving(sys.stderr)


def _outliving(stream: TextIO) -> TextIO:
    """The stream anew, over the same terminal; one that is none as it is."""
    if not (isinstance(stream, io.TextIOWrapper) and stream.isatty()):
        return stream
    stream.flush()
    file = _Terminal(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(file), stream.encoding, stream.errors, line_buffering=True
    )
