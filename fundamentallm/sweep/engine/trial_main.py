"""Entry point of a trial's process, with few imports, so that a warm fork starts at once."""

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

VARIABLES_OF_A_RUN = (
    "WANDB_RUN_ID",
    "WANDB_SWEEP_ID",
    "WANDB_SWEEP_PARAM_PATH",
    "WANDB_RESUME",
    "WANDB_SERVICE",
)
"""Variables of a W&B run in which the sweep itself may have been started."""


def main(job: Job, pipe: Connection) -> None:
    """Run a trial, send its outcome, and exit without cleaning up inherited state."""
    line = TrialPipe(pipe, job.hang_timeout)
    for name in ("SIGINT", "SIGHUP"):  # the terminal sends them to all; the worker decides
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: setattr(line, "stop", line.stop or "SIGTERM"))
    if job.in_wandb_run:
        for name in VARIABLES_OF_A_RUN:
            os.environ.pop(name, None)
    os.environ.update(job.environment)
    if job.visible_gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = job.visible_gpu
    try:
        run = job.begin()
        threading.Thread(target=line.beat, daemon=True).start()
        _enter(job)
        print_warnings()
        outcome = run(line)
    except DiskError as error:
        outcome = Outcome(RunStatus.INTERRUPTED, str(error), disk=True)
    except Exception as error:  # any error ends this trial, but not the sweep
        import traceback

        sys.stderr.write(printable(traceback.format_exc()))
        why = limit_reached(error) if isinstance(error, OSError) else ""
        why = why or type_and_message(error)
        outcome = Outcome(RunStatus.FAILED, why[:500])
    sys.stdout.flush()
    sys.stderr.flush()
    line.ended.set()
    line.send(outcome)
    pipe.close()
    os._exit(0)


def _enter(job: Job) -> None:
    """Make the run's folder the current one, and redirect output to its output.txt.

    Another worker may think this one dead and move the folder away to retry the run. All that is
    written by relative names then goes to the folder that was moved away.
    """
    folder = job.folder
    with writing(folder / "output.txt"), HeldFolder(folder, folder.parent) as held:
        if job.identity not in (None, held.known):
            raise OSError(errno.ESTALE, "another folder replaced it")
        held.enter()
        with held.open("output.txt", "ab") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
