"""The service process of W&B's client: it may die, hang, or receive a signal before we do.

A scheduler's SIGTERM to every process of a job ends it at once.
"""

from __future__ import annotations

import subprocess
import threading
from contextlib import suppress

import wandb
from wandb.sdk import wandb_setup

GRACE_SECONDS = 3.0

show_thread_error = threading.excepthook


def started() -> wandb_setup._WandbSetup:
    """Return the client with its process.

    `wandb.setup()` waits forever if the process cannot start, and holds a lock for which its own
    error report waits.
    """
    threading.excepthook = _hide_lost_connection
    client = wandb_setup._setup(start_service=False)
    if not client.settings._noop:
        client.ensure_service()
    return client


def _hide_lost_connection(args: threading.ExceptHookArgs) -> None:
    """Hide tracebacks of the client's threads once its process is gone.

    The tracker reports that in one line at its next call. One of these threads sends what Python's
    garbage collector finds, so it can meet the lost connection at any moment.
    """
    thread = args.thread.name if args.thread else ""
    if not (thread.startswith("wandb-") and isinstance(args.exc_value, ConnectionError)):
        show_thread_error(args)


def _process() -> subprocess.Popen[bytes] | None:
    """Return the process, if the client has started one."""
    connection = wandb_setup.singleton()._connection
    return None if connection is None or connection._proc is None else connection._proc._process


def is_gone(*, within: float = 0.0) -> bool:
    """Return whether the process has ended, or ends within that many seconds."""
    process = _process()
    if process is None:
        return False
    with suppress(subprocess.TimeoutExpired):
        process.wait(within)
    return process.poll() is not None


def finish_within(run: wandb.Run, code: int, seconds: float) -> bool:
    """Finish the run; return whether the client did so in time.

    The client has its own time limit, but may retry and never check it. Its process is then ended,
    after it has written everything to the disk.

    Raises:
        Exception: Any type; the client raises many when its process is gone.
    """
    ended: list[Exception | None] = []

    def finish() -> None:
        try:
            run.finish(exit_code=code)
            ended.append(None)
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=finish, daemon=True)
    thread.start()
    thread.join(seconds + GRACE_SECONDS)
    if not ended:
        _kill()
        thread.join(GRACE_SECONDS)
        return False
    if ended[0] is None or isinstance(ended[0], TimeoutError):
        return ended[0] is None
    raise ended[0]


def let_go(*, at_once: bool = False) -> None:
    """End the process and forget it; `at_once` even if it has something left to send.

    The client would otherwise print errors as Python exits.
    """
    if at_once:
        _kill()
    with suppress(Exception, SystemExit):  # SystemExit: its process was killed
        wandb.teardown()


def _kill() -> None:
    process = _process()
    if process is not None:
        process.kill()
