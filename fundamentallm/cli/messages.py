"""Lines that more than one command prints."""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import get_terminal_size

import click

from fundamentallm.data.unknown_characters import describe_unknown
from fundamentallm.printable import fit_for, printable


def show(text: str, *, err: bool = False) -> None:
    """Print a line, or lines, on stdout or stderr, without characters that redraw a terminal.

    Commands print through this function, because files and services supply parts of messages.
    """
    click.echo(printable(text), err=err)


def write_out(text: str) -> None:
    """Write a text to stdout as it is, without a line end; on a terminal as in `show`."""
    click.echo(fit_for(sys.stdout, text), nl=False)


def notify(line: str) -> None:
    """Print one line on stderr."""
    show(line, err=True)


def warn(line: str) -> None:
    """Print one warning line on stderr."""
    show(f"warning: {line}", err=True)


@contextmanager
def progress_line(about: str) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a text after `about`, in place of its last one.

    It is for a terminal; on another stderr it shows nothing.
    """

    def show_line(text: str) -> None:
        width = get_terminal_size().columns - 1
        sys.stderr.write(f"\r{printable(text, lines=False)[:width]:<{width}}\r")
        sys.stderr.flush()

    if not (sys.stderr and sys.stderr.isatty()):
        yield lambda text: None
        return
    try:
        yield lambda text: show_line(about + text)
    finally:
        show_line("")


def warn_of_unknown_characters(where: str, unknown: Counter[str], *, scored: str = "") -> None:
    """Warn of characters that the model's vocabulary lacks, if any."""
    if unknown:
        warn(describe_unknown(where, unknown.total(), unknown, scored=scored))


def display_path(path: Path) -> str:
    """Return a path as one would type it in a shell here."""
    relative = os.path.relpath(path)
    return shlex.quote(relative if not relative.startswith("..") else os.path.abspath(path))
