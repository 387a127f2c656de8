"""Processes of trials, forked from a server that has only imported torch.

A fork takes milliseconds; a new process takes seconds. It is safe because the server has run no
torch operation, opened no database, and used no GPU. (A fork after a two-thread matrix product
hangs.) On macOS and Windows, where a fork is not safe, each trial starts a new process.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from types import MappingProxyType
from typing import Any, TypeVar

from fundamentallm.errors import FundamentallmError
from fundamentallm.exit_codes import FAILED
from fundamentallm.machine.cores_and_memory import group_memory_gb, own_memory_gb
from fundamentallm.machine.system_limits import memory_limit, starting_processes
from fundamentallm.status import RunStatus
from fundamentallm.sweep.engine import trial_main
from fundamentallm.sweep.engine.job import Heartbeat, Job, Outcome, Row, Started, Stop

Process = TypeVar("Process")

SEARCH_PATH = "fundamentallm.sweep.program.search_path"
TRAINER = ("fundamentallm.cli.main", "fundamentallm.sweep.engine.trainer_trial")
"""Modules that a trial of our trainer needs."""
PROGRAM = ("fundamentallm.cli.main", "fundamentallm.sweep.engine.program_trial")
"""Modules that a trial of another program needs."""
WARM_PROGRAM = (*PROGRAM, "fundamentallm.sweep.program.preloaded")
"""The same, and modules that the program needs."""
ATTEMPTS = 5
"""Starts of a server that ends by itself, after which a worker gives up."""


class ForkServerError(FundamentallmError):
    """The fork server ends by itself."""

    exit_code = FAILED


MEMORY_SECONDS = 2.0


class TrialProcess:
    """Process of a trial, as its worker sees it."""

    def __init__(self, context: BaseContext, job: Job) -> None:
        """Start the process."""
        self.pipe, theirs = context.Pipe()
        # A class attribute of each context; BaseContext does not declare it.
        process: Any = context.Process  # pyright: ignore[reportAttributeAccessIssue]
        self.process = process(target=trial_main.main, args=(job, theirs), daemon=False)
        self.process.start()
        theirs.close()
        self.pid: int = self.process.pid
        self.last_message_at = time.monotonic()
        """Time of the last message, heartbeats included."""
        self.stop_reason = ""
        self.group: int | None = None
        """Process group of the other program that it runs, if any."""
        self.memory, self.memory_at = 0.0, -math.inf

    def messages(self) -> list[Row | Outcome]:
        """Return the messages since the last call; the last one of a trial is an `Outcome`."""
        found: list[Row | Outcome] = []
        try:
            while self.pipe.poll():
                message = self.pipe.recv()
                self.last_message_at = time.monotonic()
                if isinstance(message, Started):
                    self.group = message.group
                elif not isinstance(message, Heartbeat):
                    found.append(message)
        except (EOFError, OSError):  # the process has ended, for only it held the other end
            if not (found and isinstance(found[-1], Outcome)):
                self._kill_group()
                found.append(Outcome(RunStatus.DIED, self._cause_of_death()))
        return found

    def stop(self, reason: str) -> None:
        """Ask the process to save and end."""
        if not self.stop_reason:
            self.stop_reason = reason
            with suppress(OSError):
                self.pipe.send(Stop(reason))

    def kill(self) -> None:
        """Kill the process, and the other program that it runs."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._kill_group()

    def memory_gb(self) -> float:
        """Return the peak memory of the trial, with the program that it runs; 0 if unknown.

        That of a program is at most `MEMORY_SECONDS` old: to find all its processes takes long.
        """
        if self.group is None:
            return own_memory_gb(self.pid)
        if time.monotonic() > self.memory_at + MEMORY_SECONDS:
            self.memory, self.memory_at = group_memory_gb(self.group), time.monotonic()
        return self.memory

    def close(self) -> None:
        """Release the pipe and the process, once it has ended."""
        self.pipe.close()
        self.process.join(timeout=1)

    def _kill_group(self) -> None:
        if self.group is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.group, signal.SIGKILL)

    def _cause_of_death(self) -> str:
        self.process.join(timeout=1)
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = ", perhaps because memory ran out" if name == "SIGKILL" else ""
            return f"killed by {name}{hint}"
        return "its process ended without a message"


class ForkServer:
    """Executor that forks each trial from a server with its modules imported."""

    def __init__(
        self,
        *,
        threads: int,
        preload: Sequence[str] = TRAINER,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Start the server; it imports in the background.

        Args:
            threads: Threads of each trial.
            preload: Modules to import.
            environment: Other variables that these modules read when they are imported.
        """
        # Torch reads it when it is imported; threads beyond a trial's would only wait.
        self.environment = {"OMP_NUM_THREADS": str(threads), **environment}
        self.preload = (SEARCH_PATH, *preload)
        if sys.platform == "linux":
            self.context: BaseContext = multiprocessing.get_context("forkserver")
            self.context.set_forkserver_preload(list(self.preload))
            with starting_processes():
                self._ensure_running()
        else:
            self.context = multiprocessing.get_context("spawn")

    def _ensure_running(self) -> None:
        """Start the server, or another one if it was killed."""
        before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        try:
            forkserver.ensure_running()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def start(self, job: Job) -> TrialProcess:
        """Start a process for `job`; replace the server if it was killed.

        Raises:
            SystemLimitError: The system allows no more processes or files.
            ForkServerError: The server does not start.
        """
        return self.started(lambda: TrialProcess(self.context, job))

    def started(self, start: Callable[[], Process]) -> Process:
        """Return what `start` starts in this server's context; replace the server if it was killed.

        Raises:
            SystemLimitError: The system allows no more processes or files.
            ForkServerError: The server does not start.
        """
        for _ in range(ATTEMPTS):
            try:
                with starting_processes():
                    if sys.platform == "linux":
                        self._ensure_running()
                    return start()
            except (EOFError, ConnectionError):
                time.sleep(0.1)  # killed just now; the next start notices
        advice = memory_limit() or "run python -c 'import MODULE' to see why"
        raise ForkServerError(
            f"the process that starts runs ended {ATTEMPTS} times while it imported "
            f"{', '.join(self.preload)}; {advice}"
        )

    def wait(self, trials: Sequence[TrialProcess], seconds: float) -> None:
        """Wait until a trial sends a message, at most `seconds`."""
        pipes: list[Connection] = [trial.pipe for trial in trials]
        if pipes:
            wait(pipes, seconds)
        else:
            time.sleep(seconds)
