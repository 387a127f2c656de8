"""A folder held open: its files are opened relative to it, and no link in it is followed.

A folder from others may contain links, and a link may replace a file between check and use. So each
folder below the one that the user named is opened relative to its parent, a file relative to its
folder, and checks look at the open file, not at its name.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

BY_DESCRIPTOR = os.open in os.supports_dir_fd
"""False on Windows, where files are checked for links before they are opened."""
FOLDER = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
FOLDER |= getattr(os, "O_PATH", os.O_RDONLY)  # for a folder that may be entered but not listed
FILE = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
FILE |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # do not block on a pipe
MODES = {
    "rb": os.O_RDONLY,
    "ab": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "xb": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
}
DESCRIPTORS = "/proc/self/fd"
"""Folder with the paths of a process's open files, on Linux."""
LINK = "a link, which is not followed"


class HeldFolder:
    """The folder `path`, open until `close`; every error is an OSError."""

    def __init__(self, path: Path, root: Root | None = None) -> None:
        """Open the folder.

        Args:
            path: The folder.
            root: The folder or a parent, below which no link is followed. By default `path`, which
                may be a link, since the user named it. A held root is found wherever it was moved.
        """
        self.path = path
        self.handle: int | None = None
        place = root.path if isinstance(root, HeldFolder) else root or path
        inner = path.relative_to(place).parts
        if isinstance(root, HeldFolder) and root.handle is not None:
            self.handle = os.open(".", FOLDER, dir_fd=root.handle)
        elif BY_DESCRIPTOR:
            self.handle = os.open(place, FOLDER)
        for name in inner:
            place /= name
            try:
                self._enter(name, place)
            except BaseException:
                self.close()
                raise
        self.known = _identity(os.stat(path if self.handle is None else self.handle))
        """Identity of the folder, to recognize another one at its path."""

    def _enter(self, name: str, place: Path) -> None:
        if self.handle is None:
            if place.is_symlink():
                raise OSError(errno.ELOOP, LINK, str(place))
            return
        flags = FOLDER | getattr(os, "O_NOFOLLOW", 0)
        try:
            inside = os.open(name, flags, dir_fd=self.handle)
        except OSError as error:
            known = os.stat(name, dir_fd=self.handle, follow_symlinks=False)
            reason = LINK if stat.S_ISLNK(known.st_mode) else error.strerror
            raise OSError(error.errno, reason, str(place)) from None
        os.close(self.handle)
        self.handle = inside

    def close(self) -> None:
        """Close the folder."""
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None

    def __enter__(self) -> HeldFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def identity(self, name: str) -> tuple[int, int] | None:
        """Return the identity of an entry; None if it is missing."""
        status = self._status(name)
        return None if status is None else _identity(status)

    def why_displaced(self) -> str:
        """Return what happened to the folder if its path no longer leads to it, else ""."""
        now = self.current_path()
        if now is None:
            return "moved away or removed"
        return "" if now == self.path else f"moved to {now}"

    def current_path(self) -> Path | None:
        """Return the current path, even if the folder was moved (Linux); None if unknown."""
        if self._is_at(self.path):
            return self.path
        try:
            moved = Path(os.readlink(f"{DESCRIPTORS}/{self.handle}"))
        except OSError:
            return None
        return moved if self._is_at(moved) else None

    def lasting_path(self, name: str) -> Path:
        """Return a path of an entry that, on Linux, stays valid if the folder is moved."""
        by_descriptor = Path(DESCRIPTORS, str(self.handle))
        return (by_descriptor if by_descriptor.exists() else self.path) / name

    def open(self, name: str, mode: str) -> IO[bytes]:
        """Open a regular file: to read (`rb`), to append (`ab`), or a new one (`xb`)."""
        if self.handle is None and self._is_link(name):
            raise OSError(errno.ELOOP, LINK, str(self.path / name))
        try:
            opened = os.open(self._at(name), MODES[mode] | FILE, 0o666, dir_fd=self.handle)
        except OSError as error:
            linked = mode != "xb" and self._is_link(name)
            reason = LINK if linked else error.strerror
            reason = "Not a regular file" if error.errno == errno.ENXIO else reason  # a pipe
            raise OSError(error.errno, reason, str(self.path / name)) from None
        kind = os.fstat(opened).st_mode
        if not stat.S_ISREG(kind):
            os.close(opened)
            reason = "Is a directory" if stat.S_ISDIR(kind) else "Not a regular file"
            raise OSError(errno.EINVAL, reason, str(self.path / name))
        return os.fdopen(opened, mode)

    def new(self, name: str) -> IO[bytes]:
        """Create a file; an existing one, or a link of this name, is removed."""
        self.remove(name)
        return self.open(name, "xb")

    def probe(self, size: int = 0) -> os.stat_result:
        """Write a file of `size` bytes and remove it: the folder is writable, and has room."""
        name = f".writable-{os.getpid()}"
        try:
            with self.new(name) as file:
                if size:
                    file.write(bytes(size))
                    file.flush()
                    os.fsync(file.fileno())
                return os.fstat(file.fileno())
        finally:
            self.remove(name)

    def read(self, name: str, most: int) -> bytes:
        """Read a regular file of at most `most` bytes."""
        with self.open(name, "rb") as file:
            return read_up_to(file, most)

    def sync(self) -> None:
        """Sync the folder, so that its names survive a power cut, if the system allows it."""
        if self.handle is None:
            return
        try:
            listed = self._open_to_list()
        except PermissionError:  # it may be entered but not listed
            return
        try:
            os.fsync(listed)
        finally:
            os.close(listed)

    def sync_file(self, name: str) -> None:
        """Sync a file, so that its content survives a power cut."""
        with self.open(name, "ab" if os.name == "nt" else "rb") as file:
            os.fsync(file.fileno())

    def has(self, name: str) -> bool:
        """Return whether an entry exists, even if it is a broken link."""
        return self._status(name) is not None

    def age(self, name: str) -> float:
        """Return when an entry, or the link itself, was last changed; 0 if it is missing."""
        status = self._status(name)
        return 0.0 if status is None else status.st_mtime

    def stamp(self, name: str) -> tuple[int, int, int] | None:
        """Return numbers that differ once a file's content has changed; None if it is missing."""
        status = self._status(name)
        return None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)

    def size(self, name: str) -> int:
        """Return the size of an entry in bytes; 0 if it is missing."""
        status = self._status(name)
        return 0 if status is None else status.st_size

    def names(self, pattern: str = "*") -> list[str]:
        """Return the sorted names of its entries, including hidden ones."""
        if self.handle is None:
            found = os.listdir(self.path)
        else:
            listed = self._open_to_list()
            try:
                found = os.listdir(listed)
            finally:
                os.close(listed)
        return sorted(name for name in found if fnmatchcase(name, pattern))

    def remove(self, name: str) -> None:
        """Remove a file or a link, if it exists."""
        with suppress(FileNotFoundError):
            os.unlink(self._at(name), dir_fd=self.handle)

    def remove_tree(self, name: str) -> None:
        """Remove a folder with its content, as far as possible, without following links."""
        shutil.rmtree(self._at(name), ignore_errors=True, dir_fd=self.handle)

    def make_folder(self, name: str) -> None:
        """Create a folder in it."""
        os.mkdir(self._at(name), dir_fd=self.handle)

    def move(self, old: str, new: str, to: HeldFolder | None = None) -> None:
        """Rename `old` to `new`, replacing it if it exists."""
        to = to or self
        os.replace(self._at(old), to._at(new), src_dir_fd=self.handle, dst_dir_fd=to.handle)

    def copy(self, name: str, to: HeldFolder) -> None:
        """Copy a regular file, with its times, into a folder that has no file of that name.

        The copy survives a power cut once the folder `to` is synced too. Holes stay holes, so that
        a sparse file of others that claims to be huge takes neither time nor space.
        """
        with self.open(name, "rb") as source, to.open(name, "xb") as target:
            size = os.fstat(source.fileno()).st_size  # it may be growing
            for start, end in _data(source.fileno(), size):
                source.seek(start)
                target.seek(start)
                while start < end and (piece := source.read(min(end - start, 1 << 20))):
                    target.write(piece)
                    start += len(piece)
            target.truncate(size)
            target.flush()
            times = os.fstat(source.fileno())
            if os.utime in os.supports_fd:
                os.utime(target.fileno(), ns=(times.st_atime_ns, times.st_mtime_ns))
            os.fsync(target.fileno())

    def enter(self) -> None:
        """Make this the current folder of the process."""
        os.chdir(self.path if self.handle is None else self.handle)

    def _open_to_list(self) -> int:
        """Open a descriptor that, unlike `handle`, can be listed and synced."""
        return os.open(".", os.O_RDONLY | getattr(os, "O_CLOEXEC", 0), dir_fd=self.handle)

    def _is_at(self, path: Path) -> bool:
        try:
            return _identity(path.stat()) == self.known
        except OSError:
            return False

    def _at(self, name: str) -> str:
        return name if self.handle is not None else str(self.path / name)

    def _status(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(self._at(name), dir_fd=self.handle, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _is_link(self, name: str) -> bool:
        status = self._status(name)
        return status is not None and stat.S_ISLNK(status.st_mode)


def _data(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each part of a file's first `size` bytes that is not a hole."""
    end = 0
    if not hasattr(os, "SEEK_DATA"):
        yield 0, size
        return
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # the rest is a hole
                return
            raise
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, min(end, size)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


Root = Path | HeldFolder
"""A folder below which no link is followed."""


def read_up_to(file: IO[bytes], most: int) -> bytes:
    """Read an open file or pipe of at most `most` bytes.

    Raises:
        OSError: It is larger.
    """
    known = os.fstat(file.fileno())  # the size includes holes, which take no disk space
    content = b""
    if known.st_size <= most:
        content = file.read(-1 if stat.S_ISREG(known.st_mode) else most + 1)
    if max(known.st_size, len(content)) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes")
    return content


def why_misplaced(folder: Path, *, files: str = "", folders: str = "") -> str:
    """Return why `folder` cannot be used: it has a link or a special file under one of our names.

    Args:
        folder: The folder; it need not exist, and may be a link.
        files: Regular expression that our files' names match completely.
        folders: The same for our folders' names.

    Returns:
        One line that names the entry; "" if there is none.
    """
    kinds: tuple[tuple[str, str, Callable[[os.DirEntry[str]], bool]], ...] = (
        (files, "a file", lambda entry: entry.is_file(follow_symlinks=False)),
        (folders, "a folder", lambda entry: entry.is_dir(follow_symlinks=False)),
    )
    # If the folder is missing or cannot be listed, opening a file in it raises.
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            for pattern, kind, fits in kinds:
                if re.fullmatch(pattern, entry.name) and not fits(entry):
                    there = "a link" if entry.is_symlink() else f"not {kind}"
                    return (
                        f"{folder / entry.name}: {there}, where fundamentallm has {kind}; "
                        "nothing beside it is used; move it away"
                    )
    return ""


def why_other_owner(folder: Path, *, files: str) -> str:
    """Return why this user must not write into `folder`: another user owns our files in it.

    Files that one user leaves, such as SQLite's or locks, lock out the other. If this user cannot
    create files there, none can be left, and the result is "".

    Args:
        folder: The folder; it need not exist.
        files: Regular expression that the names of our files and folders match completely.

    Returns:
        One line that names the file and its owner; "" if this user owns them all.
    """
    if not hasattr(os, "geteuid"):  # Windows
        return ""
    with suppress(OSError), os.scandir(folder) as entries:
        ours = (entry for entry in entries if re.fullmatch(files, entry.name))
        owners = {entry.stat(follow_symlinks=False).st_uid: entry.name for entry in ours}
        others = {owner: name for owner, name in owners.items() if owner != os.geteuid()}
        # Ask the file system: some give all files one owner, or give root's files to nobody.
        if others and (others := {k: v for k, v in others.items() if k != _owner_of_new(folder)}):
            owner, name = min(others.items())
            whose = _user(owner)
            return (
                f"{folder / name}: it belongs to {whose}, and a folder of runs has one user, "
                "or one locks out the other; work there as its owner, or copy the folder"
            )
    return ""


def _owner_of_new(folder: Path) -> int:
    """Return the owner of files that this process creates in `folder`."""
    with HeldFolder(folder) as held:
        return held.probe().st_uid


def _user(number: int) -> str:
    import pwd  # not on Windows

    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"
