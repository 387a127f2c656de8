"""The first lines of a trial's process: light, so that a warm fork starts at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from multiprocessing.connection import Connection

from fundamentallm.sweep.order import Alive, Ended, Order, Started, Stop

BEAT_SECONDS = 2.0


class Line:
    """A trial's end of the pipe to its worker; it may be used from several threads."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.sending = threading.Lock()
        self.stop = ""
        """Why the trial shall end, if it shall."""

    def send(self, message: object) -> None:
        """Tell the worker; one that is gone is noted as a reason to stop."""
        try:
            with self.sending:
                self.pipe.send(message)
        except OSError:
            self.stop = self.stop or "the sweep's worker is gone"

    def stop_requested(self) -> str:
        """Why the trial shall end, or nothing."""
        try:
            while not self.stop and self.pipe.poll():
                message = self.pipe.recv()
                if isinstance(message, Stop):
                    self.stop = message.reason
        except (EOFError, OSError):
            self.stop = self.stop or "the sweep's worker is gone"
        return self.stop

    def beat(self) -> None:
        """Send a sign of life now and then, until the process ends."""
        while not self.stop:
            threading.Event().wait(BEAT_SECONDS)
            self.send(Alive())


def main(order: Order, pipe: Connection) -> None:
    """Run a trial, say how it ended, and leave without tidying up what was inherited."""
    line = Line(pipe)
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
    except Exception as error:  # whatever it is, it is this trial's end and not the sweep's
        import traceback

        traceback.print_exc()
        ended = Ended("failed", f"{type(error).__name__}: {' '.join(str(error).split())}"[:500])
    sys.stdout.flush()
    sys.stderr.flush()
    line.send(ended)
    pipe.close()
    os._exit(0)
