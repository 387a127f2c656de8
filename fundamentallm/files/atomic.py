"""Write files whole or not at all, even through a power cut; a full disk is one clear error."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fundamentallm.errors import FundamentallmError
from fundamentallm.exit_codes import FAILED
from fundamentallm.files.held_folder import HeldFolder, Root, read_up_to

OF_A_PROCESS = ("/dev/", "/proc/")


class DiskError(FundamentallmError):
    """A file cannot be written: the disk is full, read-only, over quota, or gone."""

    exit_code = FAILED


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError while writing a file into a DiskError that names the file.

    Raises:
        DiskError: The file cannot be written.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DiskError(f"{path}: cannot be written ({reason})") from error


@contextmanager
def opened(path: Path, root: Root | None) -> Iterator[IO[bytes]]:
    """Open a file to read.

    Args:
        path: The file.
        root: Below it no link is followed, and no pipe or device opened. None if the user named the
            file, which may then be a link, or a pipe of the user's shell.

    Raises:
        OSError: The file is missing, cannot be read, or is not a regular file.
    """
    if root is not None:
        with HeldFolder(path.parent, root) as folder, folder.open(path.name, "rb") as file:
            yield file
        return
    if path.exists() and not path.is_file() and not str(path).startswith(OF_A_PROCESS):
        raise OSError(errno.EINVAL, "Is a directory" if path.is_dir() else "Not a regular file")
    with path.open("rb") as file:
        yield file


def read_file(path: Path, most: int, *, root: Root | None) -> bytes:
    """Read a file of at most `most` bytes; `root` as for `opened`.

    Raises:
        OSError: The file is missing, cannot be read, is not a regular file, or is larger.
    """
    with opened(path, root) as file:
        return read_up_to(file, most)


def followed(path: Path) -> Path:
    """Resolve a path that the user typed, and that may be a link."""
    return path.resolve() if path.is_symlink() else path


@contextmanager
def replacing(path: Path, root: Root | None = None, *, part: str = "") -> Iterator[IO[bytes]]:
    """Write a file that holds the whole old or the whole new content at every instant.

    Afterwards the new content survives a power cut.

    Args:
        path: The file. A link of this name is replaced, not followed.
        root: Below it no link is followed; by default the file's folder.
        part: Name of the file until it is complete; unique if several processes may write at once.

    Raises:
        DiskError: The file cannot be written; the old content is unchanged.
    """
    part = part or f"{path.name}.part"
    with writing(path), HeldFolder(path.parent, root) as folder:
        try:
            with folder.new(part) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            folder.move(part, path.name)
        except BaseException:
            with suppress(OSError):
                folder.remove(part)
            raise
        folder.sync()


def replace_text(path: Path, text: str, root: Root | None = None, *, part: str = "") -> None:
    """Write a small text file by `replacing`."""
    with replacing(path, root, part=part) as file:
        file.write(text.encode())


def make_folder(path: Path, root: Root | None = None, *, exist_ok: bool = True) -> None:
    """Create a folder and its parents so that they survive a power cut; in a held root, only it.

    Raises:
        OSError: The folder cannot be created.
    """
    if isinstance(root, HeldFolder):
        with HeldFolder(path.parent, root) as above:
            if not (exist_ok and above.has(path.name)):
                above.make_folder(path.name)
                above.sync()
        return
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=exist_ok)
    for each in missing:
        sync_folder(each.parent)


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names in it survive a power cut."""
    with HeldFolder(folder) as held:
        held.sync()
