"""Lines that more than one command prints."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from pathlib import Path

import click


def warn(line: str) -> None:
    """One line on stderr."""
    click.echo(f"warning: {line}", err=True)


def warn_of_unknown(where: str, unknown: Counter[str]) -> None:
    """Say which characters of a text the model cannot tell from one another, if any."""
    if not unknown:
        return
    shown = ", ".join(repr(character) for character, _ in unknown.most_common(5))
    more = ", ..." if len(unknown) > 5 else ""
    total = unknown.total()
    count = "1 character is" if total == 1 else f"{total:,} characters are"
    warn(f"{where}: {count} unknown to the model, which never saw {shown}{more} in training")


def place(path: Path) -> str:
    """A path as one would type it from here."""
    relative = os.path.relpath(path)
    return shlex.quote(relative if not relative.startswith("..") else str(path))
