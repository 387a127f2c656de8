"""Trial's end of the pipe to its worker, with heartbeats and detection of hangs."""

from __future__ import annotations

import faulthandler
import math
import os
import sys
import threading
import time
from multiprocessing.connection import Connection

from fundamentallm.status import RunStatus
from fundamentallm.sweep.engine.job import Heartbeat, Outcome, Stop

BEAT_SECONDS = 2.0
WORKER_GONE = "the sweep's worker is gone"
"""Reason to stop if the worker was killed."""
HANG_FACTOR = 20
"""A step that takes this many times the longest one so far counts as hung."""


class TrialPipe:
    """Trial's end of the pipe to its worker; usable from several threads."""

    def __init__(self, pipe: Connection, hang_timeout: float) -> None:
        self.pipe = pipe
        self.sending = threading.Lock()
        self.stop = ""
        """First reason to end the trial, or ""."""
        self.worker_is_gone = False
        self.hang_timeout = hang_timeout
        self.last_step_at = math.inf
        """Time of the last step; infinite before the first and after the last."""
        self.longest_step = 0.0
        """Seconds of the longest step."""
        self.ended = threading.Event()
        """Set when the process is about to exit."""

    def send(self, message: object) -> None:
        """Send a message; a worker that is gone is a reason to stop."""
        try:
            with self.sending:
                self.pipe.send(message)
        except OSError:
            self._lose_worker()

    def stop_requested(self) -> str:
        """Return the reason to end the trial, or ""; called at every step."""
        now = time.monotonic()
        self.longest_step = max(self.longest_step, now - self.last_step_at)
        self.last_step_at = now
        return self.stop_received()

    def stop_received(self) -> str:
        """Return the reason to end the trial, or "", without noting a step."""
        try:
            while not self.worker_is_gone and self.pipe.poll():
                message = self.pipe.recv()
                if isinstance(message, Stop):
                    self.stop = self.stop or message.reason
        except (EOFError, OSError):
            self._lose_worker()
        return self.stop

    def _lose_worker(self) -> None:
        self.worker_is_gone = True
        self.stop = self.stop or WORKER_GONE

    def over(self) -> None:
        """Note that there are no more steps."""
        self.last_step_at = math.inf

    def beat(self) -> None:
        """Send heartbeats until the process ends, or end it if it hangs.

        Heartbeats continue after a request to stop: saving may take longer than a lease.
        """
        before = time.monotonic()
        while not self.ended.wait(BEAT_SECONDS):
            self.send(Heartbeat())
            now = time.monotonic()
            if now - before > self.hang_timeout / 2:  # the process was suspended, by Ctrl-Z say
                self.last_step_at = max(self.last_step_at, now)
            before = now
            idle = now - self.last_step_at
            limit = max(self.hang_timeout, HANG_FACTOR * self.longest_step)
            if idle > limit:
                self._hang(idle)

    def _hang(self, seconds: float) -> None:
        """Print the stack of every thread, send the outcome, and exit."""
        why = f"no step for {seconds:.0f} s, while the longest took {self.longest_step:.1f} s"
        print(f"hung: {why}; stack of every thread:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)
        self.send(Outcome(RunStatus.HUNG, f"{why}; see output.txt for the stack of every thread"))
        os._exit(1)
