"""Metrics that a program prints, or writes into a file, as one JSON object a line."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from fundamentallm.sweep.program.lines import Lines
from fundamentallm.sweep.program.logged import Logged, LoggedRow, numbers

LONGEST_LINE = 1 << 20
"""Bytes; a longer line is skipped."""
LARGEST_READ = 1 << 24
"""Bytes of a file that one call reads."""
STEPS = ("_step", "step")
"""Members that give a row's step; without one, it follows the last row's."""
MOST_STEPS = 2**53


class JsonLines:
    """Rows of lines that end with a JSON object; text that arrives in pieces is put together.

    Text before the object is ignored, such as a progress bar's. So is a line without an object, and
    an object without a finite number.
    """

    def __init__(self) -> None:
        self.lines = Lines(LONGEST_LINE)
        self.next_step = 0

    def feed(self, data: bytes) -> Logged:
        """Return the rows of the lines that are now complete."""
        rows = map(self._row, self.lines.feed(data))
        return Logged([row for row in rows if row is not None])

    def finish(self) -> Logged:
        """Return the row of a last line that has no line end."""
        return self.feed(b"\n")

    def _row(self, line: bytes) -> LoggedRow | None:
        start = line.find(b"{")
        if start < 0:
            return None
        try:
            metrics = numbers(json.loads(line[start:]))
        except (ValueError, RecursionError):
            return None
        steps = [_step(metrics.pop(name)) for name in STEPS if name in metrics]
        if not metrics:
            return None
        step = next((step for step in steps if step is not None), self.next_step)
        self.next_step = step + 1
        return LoggedRow(step, metrics)


class JsonFile:
    """Rows that a program writes into a file while it runs.

    Rows from before the program's start count only if the program writes them again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = JsonLines()
        self.start = _regular(path)
        self.identity = self.start and self.start.st_ino
        self.position = self.start.st_size if self.start else 0

    def read(self) -> Logged:
        """Return everything new; nothing while there is no regular file."""
        now = _regular(self.path)
        if now is None:
            return Logged()
        if now.st_ino != self.identity or now.st_size < self.position or self._is_rewritten(now):
            self.lines, self.identity, self.position = JsonLines(), now.st_ino, 0
        length = min(now.st_size - self.position, LARGEST_READ)
        if not length:
            return Logged()
        self.start = None
        try:
            with self.path.open("rb") as file:
                file.seek(self.position)
                data = file.read(length)
        except OSError:  # removed meanwhile
            return Logged()
        self.position += len(data)
        return self.lines.feed(data)

    def finish(self) -> Logged:
        """Return the rest, after the program ended."""
        logged, position = Logged(), -1
        while position != self.position:
            position = self.position
            logged.add(self.read())
        logged.add(self.lines.finish())
        return logged

    def _is_rewritten(self, now: os.stat_result) -> bool:
        """Return whether the rows from before were replaced by as many bytes."""
        before = self.start
        return bool(
            before and now.st_size == before.st_size and now.st_mtime_ns != before.st_mtime_ns
        )


def _regular(path: Path) -> os.stat_result | None:
    try:
        now = os.stat(path)
    except OSError:
        return None
    return now if stat.S_ISREG(now.st_mode) else None


def _step(value: float) -> int | None:
    return int(value) if 0 <= value <= MOST_STEPS and value == int(value) else None
