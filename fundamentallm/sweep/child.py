"""The first lines of a trial's process: light, so that a warm fork starts at once."""

from __future__ import annotations

import faulthandler
import math
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection

from fundamentallm.disk import DiskError
from fundamentallm.sweep.order import Alive, Ended, Order, Started, Stop

BEAT_SECONDS = 2.0
HUNG_STEPS = 20  # a step, or a part of an evaluation, may take as often the longest so far


class Line:
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
        while not self.ended.wait(BEAT_SECONDS):
            self.send(Alive())
            without = time.monotonic() - self.stepped
            limit = max(self.patience, HUNG_STEPS * self.longest)
            if without > limit:
                self._hang(without)

    def _hang(self, seconds: float) -> None:
        """Write down where every thread is, say so, and end."""
        why = f"no step for {seconds:.0f} s, where the longest took {self.longest:.1f} s"
        print(f"hung: {why}; where every thread was:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)
        self.send(Ended("hung", f"{why}; output.txt has where every thread was"))
        os._exit(1)


def main(order: Order, pipe: Connection) -> None:
    """Run a trial, say how it ended, and leave without tidying up what was inherited."""
    line = Line(pipe, order.patience)
    line.send(Started(os.getpid(), os.getppid(), "torch" in sys.modules))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the worker says what to do
    signal.signal(signal.SIGTERM, lambda *_: setattr(line, "stop", line.stop or "SIGTERM"))
    os.environ.update(order.environment)
    if order.visible_gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = order.visible_gpu
    # Later, another worker may think this one dead and move the folder away to try again. What is
    # written by a name relative to it then ends where nobody looks.
    os.chdir(order.folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    threading.Thread(target=line.beat, daemon=True).start()
    try:
        from fundamentallm.sweep.trial import run_trial

        ended = run_trial(order, line)
    except DiskError as error:
        ended = Ended("interrupted", str(error), disk=True)
    except Exception as error:  # whatever it is, it is this trial's end and not the sweep's
        import traceback

        traceback.print_exc()
        ended = Ended("failed", f"{type(error).__name__}: {' '.join(str(error).split())}"[:500])
    sys.stdout.flush()
    sys.stderr.flush()
    line.ended.set()
    line.send(ended)
    pipe.close()
    os._exit(0)
