"""Output of a program: stored up to a size, with its last lines."""

from __future__ import annotations

import os
import re

LARGEST_OUTPUT = 1 << 26
"""Bytes of output.txt; beyond that, only the last lines are stored."""
TAIL = 1 << 14
"""Bytes of the end that are remembered."""
LINES_SHOWN = 12
LONGEST_SHOWN = 300
"""Characters of a line that is shown."""
SEQUENCE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # color, cursor
    r"|\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # title, link
    r"|[@-Z\\^_])"
)
"""Escape sequences of a terminal."""
FRAME = " |\N{BOX DRAWINGS LIGHT VERTICAL}"
"""Characters beside the lines of a framed message."""
BY_WANDB = re.compile(r"wandb:(?! *ERROR)")
"""Start of a line that the W&B client prints, e.g. below a program's traceback."""


class Output:
    """File of a program's output, which stays below a size whatever the program prints."""

    def __init__(self, file: int, largest: int = LARGEST_OUTPUT) -> None:
        """Append to an open file descriptor, which may hold output of earlier attempts."""
        self.file = file
        self.left = max(0, largest - os.fstat(file).st_size)
        self.tail = b""
        self.left_out = 0
        """Bytes that were not stored."""

    def write(self, data: bytes) -> None:
        """Store new output, or only remember its end if the file is full.

        Raises:
            OSError: The disk is full.
        """
        self.tail = (self.tail + data)[-TAIL:]
        stored = data[: self.left]
        self.left -= len(stored)
        self.left_out += len(data) - len(stored)
        while stored:
            stored = stored[os.write(self.file, stored) :]

    def finish(self) -> None:
        """Store the last lines, if the file could not hold all."""
        if self.left_out:
            note = f"\n[fundamentallm: {self.left_out:,} bytes left out; the last lines:]\n"
            self.left, self.left_out, tail = 2 * TAIL, 0, self.tail
            self.write(note.encode() + tail)

    def reason(self) -> str:
        """Return the last line with a word, without a frame around it; "" if there is none."""
        lines = [line for line in self.last_lines() if re.search(r"\w", line)]
        return lines[-1].strip(FRAME) if lines else ""

    def last_lines(self) -> list[str]:
        """Return the last lines that are not empty, as a terminal would show them.

        Lines of the W&B client are left out, unless there are no others.
        """
        text = SEQUENCE.sub("", self.tail.decode("utf-8", "replace"))
        lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
        lines = [line[:LONGEST_SHOWN] for line in lines if line.strip()]
        others = [line for line in lines if not BY_WANDB.match(line)]
        return (others or lines)[-LINES_SHOWN:]
