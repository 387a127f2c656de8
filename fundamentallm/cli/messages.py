"""Lines that more than one command prints."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from pathlib import Path

import click

from fundamentallm.data.unknown_characters import describe_unknown
from fundamentallm.printable import printable


def show(text: str, *, err: bool = False) -> None:
    """Print a line, or lines, on stdout or stderr, without characters that redraw a terminal.

    Commands print through this function, because files and services supply parts of messages.
    """
    click.echo(printable(text), err=err)


def notify(line: str) -> None:
    """Print one line on stderr."""
    show(line, err=True)


def warn(line: str) -> None:
    """Print one warning line on stderr."""
    show(f"warning: {line}", err=True)


def warn_of_unknown_characters(where: str, unknown: Counter[str], *, scored: str = "") -> None:
    """Warn of characters that the model's vocabulary lacks, if any."""
    if unknown:
        warn(describe_unknown(where, unknown.total(), unknown, scored=scored))


def display_path(path: Path) -> str:
    """Return a path as one would type it in a shell here."""
    relative = os.path.relpath(path)
    return shlex.quote(relative if not relative.startswith("..") else os.path.abspath(path))
