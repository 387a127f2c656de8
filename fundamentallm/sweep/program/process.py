"""Process of another program: started as W&B's agent starts it, and stopped in steps."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

GRACE_SECONDS = 15.0
"""Time to end after SIGINT, and again after SIGTERM; W&B's agent waits 30 s in all."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
"""Signals that stop a program. SIGINT comes first, because W&B's client then stores all rows."""
DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux."""
AS_WHEN_STARTED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
READ_SIZE = 1 << 16


class RunningProgram(ABC):
    """Running program: the first process of a group of its own, with its output in a pipe."""

    def __init__(self, group: int, output: int) -> None:
        self.group = group
        """Id of its process group."""
        self.output = output
        """File descriptor of what it prints; never blocks."""
        os.set_blocking(output, False)
        self.end: int | None = None
        """File descriptor that is readable once it has ended, where the system has such."""
        if sys.platform == "linux":
            with suppress(OSError):  # an old kernel, or a sandbox
                self.end = os.pidfd_open(group)

    @abstractmethod
    def exit_code(self) -> int | None:
        """Return its exit code, or minus the signal that killed it; None while it runs."""

    @abstractmethod
    def wait(self) -> int:
        """Wait for its end, and return its exit code."""

    def read(self) -> bytes | None:
        """Return new output: empty if there is none now, None at its end."""
        try:
            return os.read(self.output, READ_SIZE) or None
        except BlockingIOError:
            return b""

    def signal(self, number: int) -> None:
        """Send a signal to all processes of its group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.group, number)

    def kill(self) -> None:
        """Kill all processes of its group, and wait for its end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def close(self) -> None:
        """Release the file descriptors."""
        os.close(self.output)
        if self.end is not None:
            os.close(self.end)


class ProgramProcess(RunningProgram):
    """Program in a new process, with stdin closed."""

    def __init__(self, command: Sequence[str], folder: str, environment: Mapping[str, str]) -> None:
        """Start the program in `folder`, without a shell.

        Raises:
            OSError: It cannot be started.
        """
        output, theirs = os.pipe()
        try:
            self.popen = subprocess.Popen(
                command,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=theirs,
                stderr=theirs,
                process_group=0,
                preexec_fn=prepare_child(os.getpid()),
            )
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(theirs)
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        super().__init__(self.popen.pid, output)

    def exit_code(self) -> int | None:
        """Return its exit code, or minus the signal that killed it; None while it runs."""
        return self.popen.poll()

    def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        return self.popen.wait()


class StopSequence:
    """Stop of a program by `STOP_SIGNALS`, each after a grace period."""

    def __init__(self, process: RunningProgram, grace: float = GRACE_SECONDS) -> None:
        self.process, self.grace = process, grace
        self.left = list(STOP_SIGNALS)
        self.next_at = 0.0

    def advance(self) -> None:
        """Send the next signal, if it is due."""
        if self.left and time.monotonic() >= self.next_at:
            self.process.signal(self.left.pop(0))
            self.next_at = time.monotonic() + self.grace


def prepare_child(parent: int) -> Callable[[], None]:
    """Return the preparation of a new process, for `Popen(preexec_fn=...)`.

    It restores the signals that the parent handles, and asks to be killed when the parent dies.
    """
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def prepare() -> None:
        for number in AS_WHEN_STARTED:
            signal.signal(number, signal.SIG_DFL)
        if prctl is not None:
            prctl(DIE_WITH_PARENT, signal.SIGKILL)
            if os.getppid() != parent:  # it died before the request
                os._exit(1)

    return prepare


def kill_leftovers(variable: str, value: str) -> None:
    """Kill this user's processes that were started with an environment variable of this value.

    They are what an earlier trial of a run left behind, if its supervisor was killed. Only Linux
    shows the environment of a process.
    """
    entry = os.fsencode(f"{variable}={value}")
    own = os.getpid()
    with suppress(OSError):
        for name in os.listdir("/proc"):
            with suppress(OSError, ValueError):
                if int(name) == own:
                    continue
                with open(f"/proc/{name}/environ", "rb") as file:
                    if entry in file.read().split(b"\0"):
                        os.kill(int(name), signal.SIGKILL)
