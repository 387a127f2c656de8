"""System limits: errors they cause, with advice on what to change."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fundamentallm.errors import FundamentallmError
from fundamentallm.exit_codes import FAILED

try:
    import resource
except ImportError:  # Windows
    resource = None

SOCKET_PATH = "AF_UNIX path too long"
"""Python's message, without an errno; Linux allows 107 bytes."""


FEWEST_FILES = 32
"""Files that a sweep's worker opens, with its storage and a few concurrent runs."""
ENOUGH_FILES = 1024


class SystemLimitError(FundamentallmError):
    """A limit on processes, open files or the length of a path was reached."""

    exit_code = FAILED


def limit_reached(error: OSError) -> str:
    """Return which limit caused an error, and what to do; "" if none did."""
    where = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        most = f", of which this process may have {_most('NOFILE')}" * (error.errno == errno.EMFILE)
        return f"{where}too many open files{most}; raise the limit, e.g. by: ulimit -n 1024"
    if error.errno == errno.ENAMETOOLONG:
        return f"{where}the path is longer than the system allows; give a shorter one"
    if str(error) == SOCKET_PATH:
        folder = tempfile.gettempdir()
        return f"TMPDIR={folder}: too long for a socket in it; give a shorter one, e.g. TMPDIR=/tmp"
    return ""


def memory_ran_out(error: BaseException) -> str:
    """Return that an error means too little memory, and what to do; "" if it does not.

    An import of torch under a limit fails by either class of error.
    """
    unmapped = isinstance(error, ImportError) and "failed to map segment" in str(error)
    if not (unmapped or isinstance(error, MemoryError)):
        return ""
    advice = memory_limit() or "end other programs, or give a smaller model"
    return f"memory ran out; {advice}"


def memory_limit() -> str:
    """Return the lowest limit on this process's memory, and how to raise it; "" without one."""
    if resource is None:
        return ""
    flags = {"RLIMIT_DATA": "-d", "RLIMIT_AS": "-v"}
    limits = {resource.getrlimit(getattr(resource, name))[0]: flag for name, flag in flags.items()}
    limits.pop(resource.RLIM_INFINITY, None)
    if not limits:
        return ""
    most = min(limits)
    flag = limits[most]
    return (
        f"this process may have {most / 1e9:.2g} GB; raise the limit, e.g. by: "
        f"ulimit {flag} unlimited"
    )


@contextmanager
def starting_processes() -> Iterator[None]:
    """Turn the error of a process that cannot start into one line.

    Raises:
        SystemLimitError: A limit was reached.
    """
    try:
        yield
    except OSError as error:
        why = limit_reached(error)
        if error.errno == errno.EAGAIN:
            why = (
                f"no process can be started: this user may have {_most('NPROC')}; end others, or "
                "raise the limit, e.g. by: ulimit -u 4096"
            )
        if not why:
            raise
        raise SystemLimitError(why) from error


def open_enough_files() -> None:
    """Raise the limit on open files to what a sweep needs, also for child processes.

    Raises:
        SystemLimitError: The limit cannot be raised.
    """
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < ENOUGH_FILES:
        soft = ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, ENOUGH_FILES)
        with suppress(OSError, ValueError):  # macOS allows less than it reports
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] < FEWEST_FILES:
        raise SystemLimitError(limit_reached(OSError(errno.EMFILE, "")))


def _most(name: str) -> str:
    if resource is None:
        return "few"
    most = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0]
    return "any number" if most == resource.RLIM_INFINITY else f"{most:,}"
