"""Files that a user asks a command to write: whole or not at all, and never over another."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import click

from fundamentallm.files.atomic import followed, replacing


def check_new(file: Path, flag: str, *, force: bool) -> None:
    """Check that `file`, given by `flag`, does not exist; with `force` it may be a regular file.

    Raises:
        click.UsageError: It exists, or is no file.
    """
    if os.path.isdir(file):
        raise click.UsageError(f"{flag} {file}: this is a folder; give a file name")
    if not os.path.lexists(file):
        return
    if not force:
        raise click.UsageError(
            f"{flag} {file}: this file exists; add --force to replace it, or give another name"
        )
    if not os.path.isfile(file):
        raise click.UsageError(f"{flag} {file}: not a regular file; give another name")


def write_new(file: Path, content: bytes, flag: str, *, force: bool) -> None:
    """Write a file that a reader finds whole; its name is checked as in `check_new`.

    Raises:
        click.UsageError: As in `check_new`.
        DiskError: It cannot be written; an earlier file is unchanged.
    """
    file = followed(file)
    part = f".{file.name}-{uuid.uuid4().hex[:8]}"
    with replacing(file, part=part) as written:
        check_new(file, flag, force=force)
        written.write(content)
