"""A folder held open: names in it are used relative to it, and no link there is followed.

A folder from others may hold links, and a link may take the place of a file between a look and its
use. So each folder below the one that the user named is opened relative to the one above it, a file
relative to its folder, and what was opened is looked at, not its name.
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
"""Not on Windows, where links are looked for before a file is opened."""
FOLDER = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
FOLDER |= getattr(os, "O_PATH", os.O_RDONLY)  # a folder that may be entered, and not listed
FILE = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
FILE |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe must not block
MODES = {
    "rb": os.O_RDONLY,
    "ab": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "xb": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
}
DESCRIPTORS = "/proc/self/fd"
"""Where Linux has paths of what a process has opened."""
LINK = "a link, which is not followed"


class HeldFolder:
    """The folder `path`, open until `close`; all that raises raises OSError."""

    def __init__(self, path: Path, root: Root | None = None) -> None:
        """Open it.

        Args:
            path: The folder.
            root: It or a folder above it: below, no link is followed. By default `path` itself,
                which may be reached by links, as everything that the user types. One that is held
                is found wherever it has been moved to.
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
        """What tells it from another folder that comes into its place."""

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
        """Let go of it."""
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None

    def __enter__(self) -> HeldFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def identity(self, name: str) -> tuple[int, int] | None:
        """What tells something in it from all else; None if it is not there."""
        status = self._status(name)
        return None if status is None else _identity(status)

    def why_displaced(self) -> str:
        """What has become of it, if its path no longer leads to it; empty if that does."""
        now = self.place_now()
        if now is None:
            return "moved away or removed"
        return "" if now == self.path else f"moved to {now}"

    def place_now(self) -> Path | None:
        """Where it is: at its path, or where Linux says it was moved to; None if at neither."""
        if self._is_at(self.path):
            return self.path
        try:
            moved = Path(os.readlink(f"{DESCRIPTORS}/{self.handle}"))
        except OSError:
            return None
        return moved if self._is_at(moved) else None

    def lasting_path(self, name: str) -> Path:
        """A path of something in it, for those who take no descriptor; on Linux it lasts a move."""
        by_descriptor = Path(DESCRIPTORS, str(self.handle))
        return (by_descriptor if by_descriptor.exists() else self.path) / name

    def open(self, name: str, mode: str) -> IO[bytes]:
        """A regular file in it: to read (`rb`), to add to (`ab`), or a new one (`xb`)."""
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
        """A file that was not there; what was, a link to somewhere else say, is removed."""
        self.remove(name)
        return self.open(name, "xb")

    def read(self, name: str, most: int) -> bytes:
        """All that a regular file of at most `most` bytes holds."""
        with self.open(name, "rb") as file:
            return read_up_to(file, most)

    def sync(self) -> None:
        """Make the names in it outlast a power cut, where the system lets it be opened."""
        if self.handle is None:
            return
        try:
            listed = self._open_to_list()
        except PermissionError:  # it may be entered, and not listed
            return
        try:
            os.fsync(listed)
        finally:
            os.close(listed)

    def sync_file(self, name: str) -> None:
        """Make what a file holds outlast a power cut."""
        with self.open(name, "ab" if os.name == "nt" else "rb") as file:
            os.fsync(file.fileno())

    def has(self, name: str) -> bool:
        """Whether something is there, be it a link to nowhere."""
        return self._status(name) is not None

    def age(self, name: str) -> float:
        """When what is there, be it a link, was last changed; 0 if it is gone."""
        status = self._status(name)
        return 0.0 if status is None else status.st_mtime

    def names(self, pattern: str = "*") -> list[str]:
        """What is in it, in order; hidden files too."""
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
        """Remove a file or a link, if it is there."""
        with suppress(FileNotFoundError):
            os.unlink(self._at(name), dir_fd=self.handle)

    def remove_tree(self, name: str) -> None:
        """Remove a folder with all that is in it, as far as possible; a link leads nowhere."""
        shutil.rmtree(self._at(name), ignore_errors=True, dir_fd=self.handle)

    def make_folder(self, name: str) -> None:
        """Make a folder in it."""
        os.mkdir(self._at(name), dir_fd=self.handle)

    def move(self, old: str, new: str, to: HeldFolder | None = None) -> None:
        """Rename what is called `old`, in the place of `new` if that is there."""
        to = to or self
        os.replace(self._at(old), to._at(new), src_dir_fd=self.handle, dst_dir_fd=to.handle)

    def copy(self, name: str, to: HeldFolder) -> None:
        """Copy a regular file, with its times, into a folder that has none of its name.

        The copy outlasts a power cut once the folder `to` is synced as well. Holes stay holes: a
        file of others that claims to be huge takes neither time nor room.
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
        """Make it the current folder of this process."""
        os.chdir(self.path if self.handle is None else self.handle)

    def _open_to_list(self) -> int:
        """A descriptor of the folder that, unlike `handle`, may be listed and synced."""
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
    """Start and end, in bytes, of each part of a file's first `size` bytes that is no hole."""
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
    """All that an open file holds, if that is at most `most` bytes; of a pipe the same.

    Raises:
        OSError: It is larger.
    """
    known = os.fstat(file.fileno())  # the size is also that of holes, which take no disk
    content = b""
    if known.st_size <= most:
        content = file.read(-1 if stat.S_ISREG(known.st_mode) else most + 1)
    if max(known.st_size, len(content)) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes")
    return content


def why_misplaced(folder: Path, *, files: str = "", folders: str = "") -> str:
    """Why `folder` cannot be used: it has a link or a special file where we have another thing.

    Args:
        folder: Where; it need not be there, and may itself be a link.
        files: A regular expression that our files' names match as a whole.
        folders: The same of our folders' names.

    Returns:
        One line that names what is there; empty if there is nothing such.
    """
    kinds: tuple[tuple[str, str, Callable[[os.DirEntry[str]], bool]], ...] = (
        (files, "a file", lambda entry: entry.is_file(follow_symlinks=False)),
        (folders, "a folder", lambda entry: entry.is_dir(follow_symlinks=False)),
    )
    # A folder that is not there, or may not be listed, is met by whoever opens something in it.
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


def why_anothers(folder: Path, *, files: str) -> str:
    """Why this user must not write into `folder`: what we have there belongs to another user.

    Files that one of two users leaves there, SQLite's or locks, lock out the other. Where this user
    can make no file, none can be left, and nothing is said.

    Args:
        folder: Where; it need not be there.
        files: A regular expression that the names of our files and folders match as a whole.

    Returns:
        One line that names the file and its owner; empty if all are this user's.
    """
    if not hasattr(os, "geteuid"):  # Windows
        return ""
    with suppress(OSError), os.scandir(folder) as entries:
        ours = (entry for entry in entries if re.fullmatch(files, entry.name))
        owners = {entry.stat(follow_symlinks=False).st_uid: entry.name for entry in ours}
        others = {owner: name for owner, name in owners.items() if owner != os.geteuid()}
        # Asked of the file system itself: some give all files one owner, or root's to nobody.
        if others and (others := {k: v for k, v in others.items() if k != _owner_of_new(folder)}):
            owner, name = min(others.items())
            whose = _user(owner)
            return (
                f"{folder / name}: it belongs to {whose}, and a folder of runs has one user, "
                "or one locks out the other; work there as its owner, or copy the folder"
            )
    return ""


def _owner_of_new(folder: Path) -> int:
    """Who owns a file that this process makes in `folder`."""
    name = f".writable-{os.getpid()}"
    with HeldFolder(folder) as held:
        try:
            with held.new(name) as file:
                return os.fstat(file.fileno()).st_uid
        finally:
            held.remove(name)


def _user(number: int) -> str:
    import pwd  # not on Windows

    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"
