"""Print the package's logged warnings, one line each; by default Python prints them raw."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from fundamentallm.printable import printable


def on_stderr(warning: str) -> None:
    """Print a warning on stderr, e.g. into a run's output.txt."""
    sys.stderr.write(f"warning: {warning}\n")
    sys.stderr.flush()


def print_warnings(show: Callable[[str], object] = on_stderr) -> None:
    """Pass every warning to `show` from now on: one line, which cannot redraw a terminal."""
    logging.getLogger("fundamentallm").handlers = [_WarningLines(show)]


class _WarningLines(logging.Handler):
    def __init__(self, show: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self.show = show

    def emit(self, record: logging.LogRecord) -> None:
        self.show(printable(record.getMessage(), lines=False))
