"""Processes for trials: forked from a server that has imported torch and done nothing else.

A fork takes milliseconds where a new process takes seconds. It is safe because the server has run
no torch operation (a fork after a two-thread matrix product hangs), opened no database, and
touched no GPU. Where a fork is not safe, on macOS and Windows, a process is started anew.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from typing import Any

from fundamentallm.machine.system_limits import starting_processes
from fundamentallm.status import RunStatus
from fundamentallm.sweep.engine import trial_main
from fundamentallm.sweep.engine.job import Heartbeat, Job, Outcome, Row, Stop

PRELOADED = ["fundamentallm.cli.main", "fundamentallm.sweep.engine.trial"]


class TrialProcess:
    """A trial's process, seen from its worker."""

    def __init__(self, context: BaseContext, job: Job) -> None:
        """Start it."""
        self.pipe, theirs = context.Pipe()
        # A class attribute of each context; BaseContext does not declare it.
        process: Any = context.Process  # pyright: ignore[reportAttributeAccessIssue]
        self.process = process(target=trial_main.main, args=(job, theirs), daemon=False)
        self.process.start()
        theirs.close()
        self.pid: int = self.process.pid
        self.heard = time.monotonic()
        """When it last gave a sign of life."""
        self.stop_reason = ""

    def messages(self) -> list[Row | Outcome]:
        """What it said since the last call; at its end, an `Outcome` in any case."""
        found: list[Row | Outcome] = []
        try:
            while self.pipe.poll():
                message = self.pipe.recv()
                self.heard = time.monotonic()
                if not isinstance(message, Heartbeat):
                    found.append(message)
        except (EOFError, OSError):  # the other end is closed, and only its process held it
            if not (found and isinstance(found[-1], Outcome)):
                found.append(Outcome(RunStatus.DIED, self._cause_of_death()))
        return found

    def stop(self, reason: str) -> None:
        """Ask it to save and end."""
        if not self.stop_reason:
            self.stop_reason = reason
            with suppress(OSError):
                self.pipe.send(Stop(reason))

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Forget it, once it has ended."""
        self.pipe.close()
        self.process.join(timeout=1)

    def _cause_of_death(self) -> str:
        self.process.join(timeout=1)
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            more = ", which is what happens when memory runs out" if name == "SIGKILL" else ""
            return f"killed by {name}{more}"
        return "its process ended without a word"


class ForkServer:
    """Where trials are started, and waited for."""

    def __init__(self, *, threads: int, preload: Sequence[str] = ()) -> None:
        """Get the server going; it imports while the caller does other things.

        Args:
            threads: Of each trial.
            preload: Modules beyond those that every trial needs.
        """
        if sys.platform == "linux":
            self.context: BaseContext = multiprocessing.get_context("forkserver")
            self.context.set_forkserver_preload([*PRELOADED, *preload])
            # Read when torch is loaded; a pool of more threads than a trial uses would only wait.
            before = os.environ.get("OMP_NUM_THREADS")
            os.environ["OMP_NUM_THREADS"] = str(threads)
            with starting_processes():
                forkserver.ensure_running()
            if before is None:
                del os.environ["OMP_NUM_THREADS"]
            else:
                os.environ["OMP_NUM_THREADS"] = before
        else:
            self.context = multiprocessing.get_context("spawn")

    def start(self, job: Job) -> TrialProcess:
        """A new process for `job`. A server that was killed is replaced.

        Raises:
            SystemLimitError: There may be no more.
        """
        while True:
            try:
                with starting_processes():
                    return TrialProcess(self.context, job)
            except (EOFError, ConnectionError):
                time.sleep(0.1)  # killed just now; the next start notices

    def wait(self, trials: Sequence[TrialProcess], seconds: float) -> None:
        """Until a trial says something, or the time is over."""
        pipes: list[Connection] = [trial.pipe for trial in trials]
        if pipes:
            wait(pipes, seconds)
        else:
            time.sleep(seconds)
