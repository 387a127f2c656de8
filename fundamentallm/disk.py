"""Writing files: whole or not at all, and a full or read-only disk is one clear line."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fundamentallm.errors import FundamentallmError
from fundamentallm.exit_codes import FAILED


class DiskError(FundamentallmError):
    """A file cannot be written: the disk is full, read-only, over quota, or gone."""

    exit_code = FAILED


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What goes wrong with a file inside names that file.

    Raises:
        DiskError: It did.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DiskError(f"{path}: cannot be written ({reason})") from error


def read_file(path: Path) -> bytes:
    """What a regular file holds; a pipe or a device, which may never end, is refused.

    Raises:
        OSError: It is not there, cannot be read, or is no regular file.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "Is a directory" if path.is_dir() else "Not a regular file")
    return path.read_bytes()


def new_file(path: Path) -> BinaryIO:
    """A file that was not there; what was, a link to somewhere else say, is removed."""
    path.unlink(missing_ok=True)
    return path.open("xb")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file so that at every instant it holds the old content or the new, whole.

    Raises:
        DiskError: It cannot be written; the old content is still there.
    """
    part = path.with_name(path.name + ".part")
    with writing(path):
        try:
            with new_file(part) as file:
                yield file
            os.replace(part, path)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise


def replace_text(path: Path, text: str) -> None:
    """`replacing` for a small file."""
    with replacing(path) as file:
        file.write(text.encode())


def sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system lets a folder be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
