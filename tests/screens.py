"""Terminals in memory: what a person would see of a program."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pyte
from rich.console import Console


class Screen:
    """A terminal's screen, fed with the output of a program; it is a stream for rich, too."""

    def __init__(self, columns: int, rows: int) -> None:
        self.screen = pyte.Screen(columns, rows)
        self.screen.set_mode(pyte.modes.LNM)  # a line feed returns the carriage, as in a terminal
        self.stream = pyte.Stream(self.screen)

    def write(self, text: str) -> None:
        self.stream.feed(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True

    def console(self, **options: object) -> Console:
        """Return a console that writes here, in 256 colors."""
        size = {"width": self.screen.columns, "height": self.screen.lines}
        known = {"color_system": "256", "_environ": {"TERM": "xterm-256color"}, **size, **options}
        return Console(file=self, force_terminal=True, highlight=False, **known)  # pyright: ignore

    @property
    def lines(self) -> list[str]:
        """Lines without trailing spaces; empty ones at the end are left out."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip("\n").split("\n")

    def color(self, line: int, column: int) -> str:
        """Return the color of a character."""
        return self.screen.buffer[line][column].fg

    def narrow(self, columns: int) -> None:
        """Break lines that are too long into two, as most terminals do when they get narrower."""
        old, cursor = self.lines, self.screen.cursor.y
        parts = [
            [line[i : i + columns] for i in range(0, max(1, len(line)), columns)] for line in old
        ]
        below = sum(map(len, parts[: cursor + 1]))
        self.screen = pyte.Screen(columns, self.screen.lines)
        self.screen.set_mode(pyte.modes.LNM)
        self.stream = pyte.Stream(self.screen)
        self.write("\n".join(part for each in parts[: cursor + 1] for part in each))
        assert below <= self.screen.lines


class Program:
    """A program in a terminal of its own, of a given size."""

    def __init__(
        self, folder: Path, columns: int, rows: int, *words: object, **environment: str
    ) -> None:
        """Start `python -m fundamentallm WORDS`."""
        self.ours, theirs = pty.openpty()
        self.screen = Screen(columns, rows)
        self.resize(columns, rows)
        known = {name: value for name, value in os.environ.items() if name not in HIDDEN}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fundamentallm", *map(str, words)], cwd=folder, stdin=theirs,
            stdout=theirs, stderr=theirs, start_new_session=True,
            env={**known, "TERM": "xterm-256color", **environment},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(theirs)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exception: object) -> None:
        """End what is left of the program."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.ours)

    def resize(self, columns: int, rows: int) -> None:
        """Tell the program of another size."""
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self) -> bool:
        """Show what the program has written; return False at its end."""
        ready, _, _ = select.select([self.ours], [], [], 0.1)
        if not ready:
            return True
        try:
            output = os.read(self.ours, 65536)
        except OSError:  # EIO: the program has ended
            return False
        self.screen.write(output.decode(errors="replace"))
        return bool(output)

    def wait_for(self, condition: Callable[[list[str]], object], seconds: float = 120) -> list[str]:
        """Return the screen's lines once they fulfil the condition."""
        deadline = time.monotonic() + seconds
        while not condition(self.screen.lines):
            shown = "\n".join(self.screen.lines)
            assert self.read(), shown
            assert time.monotonic() < deadline, shown
        return self.screen.lines

    def finish(self) -> list[str]:
        """Return the last screen, after the program's end."""
        while self.read():
            pass
        self.process.wait(60)
        return self.screen.lines


HIDDEN: Mapping[str, None] = dict.fromkeys(("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "CI"))
"""Variables that would change what a program draws."""
