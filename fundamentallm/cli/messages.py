"""Lines that more than one command prints."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from pathlib import Path

import click

from fundamentallm.data.unknown_characters import describe_unknown
from fundamentallm.printable import printable


def say(text: str, *, err: bool = False) -> None:
    """Print a line, or lines, on stdout or stderr: nothing in it can redraw a terminal.

    All that a command says goes through here: a file, a folder or a service may have named it.
    """
    click.echo(printable(text), err=err)


def notice(line: str) -> None:
    """One line on stderr that warns of nothing."""
    say(line, err=True)


def warn(line: str) -> None:
    """One line on stderr."""
    say(f"warning: {line}", err=True)


def warn_of_unknown(where: str, unknown: Counter[str], *, scored: str = "") -> None:
    """Say which characters of a text the model cannot tell from one another, if any."""
    if unknown:
        warn(describe_unknown(where, unknown.total(), unknown, scored=scored))


def place(path: Path) -> str:
    """A path as one would type it from here."""
    relative = os.path.relpath(path)
    return shlex.quote(relative if not relative.startswith("..") else str(path))
