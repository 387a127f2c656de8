"""What the package's modules log as warnings, said in lines; without this Python shows them raw."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from fundamentallm.printable import printable


def on_stderr(warning: str) -> None:
    """Say it where the process has no terminal of its own: a run's output.txt, say."""
    sys.stderr.write(f"warning: {warning}\n")
    sys.stderr.flush()


def say_warnings(say: Callable[[str], object] = on_stderr) -> None:
    """Have `say` told of every warning from now on: one line, which cannot redraw a terminal."""
    logging.getLogger("fundamentallm").handlers = [_Lines(say)]


class _Lines(logging.Handler):
    def __init__(self, say: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        self.say(printable(record.getMessage(), lines=False))
