"""The process that W&B's client sends through: it may die, hang, or be told to end before we are.

A scheduler's SIGTERM to every process of a job ends it at once, in whatever it was doing.
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
    """The client with its process, as of `wandb.setup()`; that waits for ever where none starts.

    (It holds a lock meanwhile, for which its own report of the failure waits.)
    """
    threading.excepthook = _hide_lost_connection
    client = wandb_setup._setup(start_service=False)
    if not client.settings._noop:
        client.ensure_service()
    return client


def _hide_lost_connection(args: threading.ExceptHookArgs) -> None:
    """Print no traceback of the client's own threads where its process is gone.

    The tracker says so in a line of its own at its next call. One of these threads sends what
    Python's garbage collection finds, so it meets the lost connection at any moment.
    """
    thread = args.thread.name if args.thread else ""
    if not (thread.startswith("wandb-") and isinstance(args.exc_value, ConnectionError)):
        show_thread_error(args)


def _process() -> subprocess.Popen[bytes] | None:
    """The process, if the client has started one."""
    connection = wandb_setup.singleton()._connection
    return None if connection is None or connection._proc is None else connection._proc._process


def is_gone(*, within: float = 0.0) -> bool:
    """Whether the process was there and has ended, or ends within so many seconds."""
    process = _process()
    if process is None:
        return False
    with suppress(subprocess.TimeoutExpired):
        process.wait(within)
    return process.poll() is not None


def finish_within(run: wandb.Run, code: int, seconds: float) -> bool:
    """Finish the run, and say whether the client did so in time.

    It has a time limit of its own, but may be busy trying again and never look at it: then its
    process is ended, which has written everything to the disk by then.

    Raises:
        Exception: Whatever the client raises where its process is gone.
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
    """End the process and forget it; `at_once` also where it has something to send still.

    Left to the end of Python, the client's own would print what it meets there.
    """
    if at_once:
        _kill()
    with suppress(Exception, SystemExit):  # SystemExit: what the client does where it was killed
        wandb.teardown()


def _kill() -> None:
    process = _process()
    if process is not None:
        process.kill()
