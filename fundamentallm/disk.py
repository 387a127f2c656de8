"""Writing files: whole or not at all, also after a power cut; a full disk is one clear line."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fundamentallm.errors import FundamentallmError
from fundamentallm.exit_codes import FAILED

OF_A_PROCESS = ("/dev/", "/proc/")


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


def read_file(path: Path, most: int) -> bytes:
    """What a regular file of at most `most` bytes holds; a pipe, which may never end, is refused.

    Raises:
        OSError: It is not there, cannot be read, is no regular file, or is larger.
    """
    of_a_process = str(path).startswith(OF_A_PROCESS)  # a pipe of the user's own shell
    if path.exists() and not path.is_file() and not of_a_process:
        raise OSError(errno.EINVAL, "Is a directory" if path.is_dir() else "Not a regular file")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size  # also of holes, which take no disk
        content = b"" if size > most else file.read(most + 1 if of_a_process else -1)
    if max(size, len(content)) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes")
    return content


def new_file(path: Path) -> BinaryIO:
    """A file that was not there; what was, a link to somewhere else say, is removed."""
    path.unlink(missing_ok=True)
    return path.open("xb")


@contextmanager
def replacing(path: Path, *, part: str = "") -> Iterator[BinaryIO]:
    """Write a file so that at every instant it holds the old content or the new, whole.

    Afterwards the new content outlasts a power cut.

    Args:
        path: The file.
        part: What the file is called until it is whole: a name of one's own, where several
            processes may write at once.

    Raises:
        DiskError: It cannot be written; the old content is still there.
    """
    beside = path.with_name(part or f"{path.name}.part")
    with writing(path):
        try:
            with new_file(beside) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def replace_text(path: Path, text: str, *, part: str = "") -> None:
    """`replacing` for a small file."""
    with replacing(path, part=part) as file:
        file.write(text.encode())


def make_folder(path: Path, *, exist_ok: bool = True) -> None:
    """Make a folder and those above it, so that they outlast a power cut.

    Raises:
        OSError: It cannot be made.
    """
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=exist_ok)
    for each in missing:
        sync_folder(each.parent)


def sync_file(file: Path) -> None:
    """Make what a file holds outlast a power cut.

    Raises:
        OSError: It is not there, is a link, or the disk fails.
    """
    access = os.O_RDWR if os.name == "nt" else os.O_RDONLY
    _sync(os.open(file, access | getattr(os, "O_NOFOLLOW", 0)))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a power cut, where the system lets it be opened."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    _sync(handle)


def _sync(handle: int) -> None:
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
