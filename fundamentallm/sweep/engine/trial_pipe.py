"""A trial's end of the pipe to its worker, by which the two watch that both still live."""

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
HUNG_STEPS = 20  # a step, or a part of an evaluation, may take as often the longest so far


class TrialPipe:
    """A trial's end of the pipe to its worker; it may be used from several threads."""

    def __init__(self, pipe: Connection, patience: float) -> None:
        self.pipe = pipe
        self.sending = threading.Lock()
        self.stop = ""
        """Why the trial shall end, if it shall."""
        self.patience = patience
        self.stepped = math.inf
        """When it last asked whether to stop, as it does at every step."""
        self.longest = 0.0
        """Seconds of its longest step."""
        self.ended = threading.Event()
        """Set when the process is about to leave."""

    def send(self, message: object) -> None:
        """Tell the worker; one that is gone is noted as a reason to stop."""
        try:
            with self.sending:
                self.pipe.send(message)
        except OSError:
            self.stop = self.stop or "the sweep's worker is gone"

    def stop_requested(self) -> str:
        """Why the trial shall end, or nothing; asked at every step."""
        now = time.monotonic()
        self.longest = max(self.longest, now - self.stepped)
        self.stepped = now
        try:
            while not self.stop and self.pipe.poll():
                message = self.pipe.recv()
                if isinstance(message, Stop):
                    self.stop = message.reason
        except (EOFError, OSError):
            self.stop = self.stop or "the sweep's worker is gone"
        return self.stop

    def over(self) -> None:
        """There will be no more steps."""
        self.stepped = math.inf

    def beat(self) -> None:
        """Send a sign of life now and then, until the process ends; or end it, if it hangs.

        Also when the trial was asked to stop: saving may take longer than a lease.
        """
        before = time.monotonic()
        while not self.ended.wait(BEAT_SECONDS):
            self.send(Heartbeat())
            now = time.monotonic()
            if now - before > self.patience / 2:  # we were stopped, by Ctrl-Z say, in mid-step
                self.stepped = max(self.stepped, now)
            before = now
            without = now - self.stepped
            limit = max(self.patience, HUNG_STEPS * self.longest)
            if without > limit:
                self._hang(without)

    def _hang(self, seconds: float) -> None:
        """Write down where every thread is, say so, and end."""
        why = f"no step for {seconds:.0f} s, where the longest took {self.longest:.1f} s"
        print(f"hung: {why}; where every thread was:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)
        self.send(Outcome(RunStatus.HUNG, f"{why}; output.txt has where every thread was"))
        os._exit(1)
