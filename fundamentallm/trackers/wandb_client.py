"""W&B's client in this process: the only module that knows how its versions differ.

It looks for what the installed client has, never at its version number. Where an old or unknown
client lacks something, the function's docstring says what remains. Any call of a client may hang,
so callers bound it with `within`.
"""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

# When W&B is unreachable, the client retries error reports at exit, for up to 20 s.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import wandb
from wandb.sdk import wandb_setup

from fundamentallm.errors import one_line
from fundamentallm.trackers.wandb_api import address_and_key

Result = TypeVar("Result")

OFFLINE = ("offline", "dryrun")
"""Modes in which the client sends nothing."""
DATA_DIR = "WANDB_DATA_DIR"
TEMPORARY = "tmp/client"

show_thread_error = threading.excepthook
_left_behind: list[threading.Thread] = []


class ClientHungError(TimeoutError):
    """The client did not return in time; its call goes on in a thread that nothing waits for."""


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """Return the result of a call of the client, made in a thread of its own.

    Raises:
        ClientHungError: It takes longer.
        Exception: Any type, from the call.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # SystemExit too: the client's process was killed
            errors.append(error)

    thread = threading.Thread(target=run, name="wandb-call", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        leave_behind(thread)
        raise ClientHungError(f"no answer within {seconds:g} s")
    if errors:
        error = errors[0]
        raise error if isinstance(error, Exception) else RuntimeError(repr(error))
    return results[0]


def leave_behind(thread: threading.Thread) -> None:
    """Note that a thread hangs in the client, so that this process does not wait for it."""
    _left_behind.append(thread)


def hangs() -> bool:
    """Return whether a call of the client still hangs; at exit, the client would wait for it."""
    return any(thread.is_alive() for thread in _left_behind)


def settings() -> Any:
    """Return the client's settings, from the environment and its files.

    Starts no process where the client allows that.
    """
    return _setup().settings


def _setup() -> Any:
    setup: Any = getattr(wandb_setup, "_setup", None)
    if setup is not None and "start_service" in inspect.signature(setup).parameters:
        return setup(start_service=False)
    return wandb.setup()


def why(error: Exception) -> str:
    """Return an error of the client on one line; for invalid settings, which ones and why."""
    listed = getattr(error, "errors", None)
    if callable(listed):  # pydantic's error, whose own text speaks of pydantic
        with suppress(LookupError, TypeError):
            invalid: Any = listed()
            error = ValueError(
                "; ".join(
                    f"setting {'.'.join(map(str, one['loc']))}: "
                    + str(one["msg"]).removeprefix("Value error, ")
                    for one in invalid
                )
            )
    return one_line(error).partition(" Consider increasing")[0]


def start() -> Any:
    """Start the client's process, and return its settings.

    `wandb.setup()` waits forever if the process cannot start, and holds a lock for which its own
    error report waits.
    """
    threading.excepthook = _hide_lost_connection
    client = _setup()
    if not client.settings._noop and hasattr(client, "ensure_service"):
        client.ensure_service()
    return client.settings


def _hide_lost_connection(args: threading.ExceptHookArgs) -> None:
    """Hide tracebacks of the client's threads once its process is gone.

    The tracker reports that in one line at its next call. One of these threads sends what Python's
    garbage collector finds, so it can meet the lost connection at any moment.
    """
    thread = args.thread.name if args.thread else ""
    is_clients = thread.startswith(("wandb-", "NetStatThr", "ChkStopThr", "IntMsgThr"))
    is_lost = isinstance(args.exc_value, ConnectionError)  # or an error of the client's own
    if not (is_clients and (is_lost or args.exc_type.__module__.startswith("wandb."))):
        show_thread_error(args)


def log_in() -> bool:
    """Return whether the client has a key or a token; never prompt, and never ask the server.

    A client that cannot be told not to prompt is not asked: it logs in when the run starts.
    """
    if "prompt" in inspect.signature(wandb.login).parameters:
        return wandb.login(prompt=False, verify=False)
    known = settings()
    return bool(address_and_key()[1] or getattr(known, "identity_token_file", None))


def tells_stops() -> bool:
    """Return whether the client tells us when W&B asks the run to stop.

    Other clients send this process SIGINT.
    """
    return _has_setting("stop_fn")


def run_settings(**wanted: Any) -> wandb.Settings:
    """Return settings of a run: of the wanted ones, those that the client has."""
    return wandb.Settings(**{name: value for name, value in wanted.items() if _has_setting(name)})


def _has_setting(name: str) -> bool:
    return hasattr(wandb.Settings(), name)


def _process() -> subprocess.Popen[bytes] | None:
    """Return the client's process; None if it has none, or the client hides it."""
    found: Any = None
    with suppress(Exception):
        found = wandb_setup.singleton()
    for names in (("_connection",), ("_proc",), ("_process", "_internal_proc")):
        found = next((each for name in names if (each := getattr(found, name, None))), None)
    return found if isinstance(found, subprocess.Popen) else None


def is_gone(*, wait: float = 0.0) -> bool:
    """Return whether the client's process has ended, or ends within `wait` seconds."""
    process = _process()
    if process is None:
        return False
    with suppress(subprocess.TimeoutExpired):
        process.wait(wait)
    return process.poll() is not None


def kill() -> None:
    """Kill the client's process, if it can be found; calls that wait for it then fail."""
    process = _process()
    if process is not None:
        process.kill()


def end(*, at_once: bool = False) -> None:
    """End the client's process and forget it, so that `wandb.init` reads the environment anew.

    The client would otherwise print errors as Python exits.

    Args:
        at_once: Whether to kill it, even if it has something left to send.
    """
    if at_once:
        kill()
    with suppress(Exception, SystemExit):  # SystemExit: its process was killed
        wandb.teardown()


def active_run() -> str:
    """Return the name or id of the run that is active in this process; "" if there is none."""
    return "" if wandb.run is None else str(wandb.run.name or wandb.run.id)


def finish_active_run(exit_code: int) -> None:
    """Finish the active run, if there is one."""
    wandb.finish(exit_code=exit_code)


class ClientFiles:
    """Files that the client writes for a run: temporary ones, and those that wait to be sent.

    The client writes media and models into temporary folders, and copies models to the user's data
    folder, from where they are sent. It cleans up as Python exits, which a trial of a sweep or a
    killed process never does. A client that hides these folders keeps its own ways.
    """

    def __init__(self, run: wandb.Run, cache: str = "") -> None:
        """Redirect the client's temporary folders to the run's folder under `wandb/`.

        `cache` is another folder to remove at the end of the run.
        """
        self.data, self.cache = Path(run.settings.sync_dir), cache
        self.temporary = self.data / TEMPORARY
        for left in self._earlier(run, TEMPORARY):
            shutil.rmtree(left, ignore_errors=True)  # left by a killed process
        self.temporary.mkdir(parents=True, exist_ok=True)
        for folder in _temporary_folders():
            folder.cleanup()
            folder.name = str(self.temporary)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Have the client copy models within the run's folder, unless WANDB_DATA_DIR is set."""
        tempdir, data_dir = tempfile.tempdir, os.environ.get(DATA_DIR)
        tempfile.tempdir = str(self.temporary)
        os.environ.setdefault(DATA_DIR, str(self.data))
        try:
            yield
        finally:
            tempfile.tempdir = tempdir
            if data_dir is None:
                del os.environ[DATA_DIR]

    def send_earlier_media(self, run: wandb.Run) -> None:
        """Send media of earlier processes, which may have been killed before they sent them."""
        for earlier in self._earlier(run, "files"):
            linked = any(path.is_symlink() for path in (earlier.parent, *earlier.rglob("*")))
            if earlier != Path(run.settings.files_dir) and not linked:
                run.save(earlier / "media/*/*", base_path=earlier, policy="now")

    def clear(self, *, sent: bool) -> None:
        """Remove temporary files, and files waiting for `wandb sync` only if all were sent."""
        shutil.rmtree(self.temporary, ignore_errors=True)
        if self.cache:
            shutil.rmtree(self.cache, ignore_errors=True)
        if sent:
            shutil.rmtree(self.data / "artifacts", ignore_errors=True)

    @staticmethod
    def _earlier(run: wandb.Run, name: str) -> Iterator[Path]:
        """Yield the folder `name` of every process that worked at this run."""
        return Path(run.settings.wandb_dir).glob(f"*run-*-{run.id}/{name}")


def _temporary_folders() -> Iterator[tempfile.TemporaryDirectory[str]]:
    """Yield the client's temporary folders, which it creates on import."""
    media: Any = None
    with suppress(ImportError):
        from wandb.sdk.data_types import _private as media
    for owner, name in ((media, "MEDIA_TMP"), (wandb.Artifact, "_TMP_DIR")):
        folder = getattr(owner, name, None)
        if isinstance(folder, tempfile.TemporaryDirectory):
            yield folder
