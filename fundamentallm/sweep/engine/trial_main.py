"""The first lines of a trial's process: light, so that a warm fork starts at once."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection

from fundamentallm.errors import type_and_message
from fundamentallm.files.atomic import DiskError, writing
from fundamentallm.files.held_folder import HeldFolder
from fundamentallm.machine.system_limits import limit_reached
from fundamentallm.printable import printable
from fundamentallm.status import RunStatus
from fundamentallm.sweep.engine.job import Job, Outcome
from fundamentallm.sweep.engine.trial_pipe import TrialPipe
from fundamentallm.warning_lines import print_warnings

OF_ANOTHER_RUN = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RESUME")
"""What the environment may have of the run that the sweep itself was started in."""


def main(job: Job, pipe: Connection) -> None:
    """Run a trial, say how it ended, and leave without tidying up what was inherited."""
    line = TrialPipe(pipe, job.patience)
    for name in ("SIGINT", "SIGHUP"):  # a terminal's reach all; the worker says what to do
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: setattr(line, "stop", line.stop or "SIGTERM"))
    if job.wandb is not None:
        for name in OF_ANOTHER_RUN:
            os.environ.pop(name, None)
    os.environ.update(job.environment)
    if job.visible_gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = job.visible_gpu
    threading.Thread(target=line.beat, daemon=True).start()
    try:
        _enter(job)
        print_warnings()
        from fundamentallm.sweep.engine.trial import run_trial

        ended = run_trial(job, line)
    except DiskError as error:
        ended = Outcome(RunStatus.INTERRUPTED, str(error), disk=True)
    except Exception as error:  # whatever it is, it is this trial's end and not the sweep's
        import traceback

        sys.stderr.write(printable(traceback.format_exc()))
        why = limit_reached(error) if isinstance(error, OSError) else ""
        why = why or type_and_message(error)
        ended = Outcome(RunStatus.FAILED, why[:500])
    sys.stdout.flush()
    sys.stderr.flush()
    line.ended.set()
    line.send(ended)
    pipe.close()
    os._exit(0)


def _enter(job: Job) -> None:
    """Work by names relative to the run's folder from now on, and print into its output.txt.

    Later, another worker may think this one dead and move the folder away to try again. What is
    written by such a name then ends where nobody looks.
    """
    folder = job.folder
    with writing(folder / "output.txt"), HeldFolder(folder, folder.parent) as held:
        if job.identity not in (None, held.known):
            raise OSError(errno.ESTALE, "another folder has come into its place")
        held.enter()
        with held.open("output.txt", "ab") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
