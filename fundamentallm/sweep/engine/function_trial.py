"""Trials that call a Python function in this process, one at a time.

The engine runs in a thread of its own, and the function in the thread that called
`FunctionExecutor.call_all`, as a notebook's cell does: what the function changes stays changed, and
Ctrl-C reaches it. The engine's thread reads what the function logs and writes the run's folder.
"""

from __future__ import annotations

import ctypes
import math
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, cast

from fundamentallm.errors import FundamentallmError, type_and_message
from fundamentallm.files.atomic import writing
from fundamentallm.files.held_folder import HeldFolder
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.printable import printable
from fundamentallm.status import RunStatus
from fundamentallm.sweep.engine.job import Outcome, Row
from fundamentallm.sweep.engine.program_job import ProgramJob
from fundamentallm.sweep.engine.program_trial import RELEASE_SECONDS, outcome_of
from fundamentallm.sweep.engine.run_record import (
    LOG_SECONDS,
    Record,
    earlier_logs,
    write_parameters,
)
from fundamentallm.sweep.engine.trial_main import VARIABLES_OF_A_RUN
from fundamentallm.sweep.program.json_lines import JsonLines
from fundamentallm.sweep.program.logged import Logged
from fundamentallm.sweep.program.output import Output
from fundamentallm.sweep.program.process import GRACE_SECONDS
from fundamentallm.sweep.program.transaction_log import TransactionLogs
from fundamentallm.trackers.installed import load_client

POLL_SECONDS = 0.2
INTERRUPTED = "SIGINT"
"""Reason to stop after Ctrl-C."""


class StopRun(BaseException):
    """Raised inside the function to end its run, e.g. for hyperband."""

    def __str__(self) -> str:
        return "the sweep stops this run early; this is no error"


class FunctionTrial:
    """One call of the function, as the engine sees it; `call` makes the call."""

    def __init__(self, job: ProgramJob) -> None:
        """Prepare the run's folder; a failure becomes the trial's outcome."""
        self.job = job
        self.last_message_at = time.monotonic()
        self.stop_reason = ""
        self.next_stop_at = math.inf
        """Time at which `StopRun` is raised in the function, or raised again."""
        self.caller = threading.Lock()
        self.caller_id: int | None = None
        """Id of the thread that is inside the function; changed only under the lock `caller`."""
        self.has_left = False
        """The function has returned or raised; it is too late to stop it."""
        self.may_be_pending = False
        """True once `StopRun` was sent to the function's thread, which may not have raised it."""
        self.has_ended = threading.Event()
        """Set once the call is over, or was never made."""
        self.error: BaseException | None = None
        """Error that the function raised."""
        self.outcome: Outcome | None = None
        """End of the trial, if the run's folder could not be written."""
        self.printed: deque[bytes] = deque()
        """Pieces of what the function printed and the engine's thread has not yet read."""
        self.lines = JsonLines()
        self.resources = ExitStack()
        self.folder = RunFolder(job.folder)
        with self._recording():
            self._prepare()

    def _prepare(self) -> None:
        self.resources.enter_context(self.folder.held(wait=RELEASE_SECONDS))
        write_parameters(self.job, self.folder)
        earlier = earlier_logs(self.folder)
        self.record = Record(self.job, self.folder, earlier)
        self.record.start()
        self.record.complete_earlier()
        self.logs = TransactionLogs(
            self.folder.path,
            self.job.run_id,
            working_folder=Path(self.job.working_folder),
            ignore=earlier,
        )
        with (
            writing(self.folder.path / "output.txt"),
            HeldFolder(self.folder.path, self.folder.root) as held,
        ):
            file = self.resources.enter_context(held.open("output.txt", "ab"))
            self.output = Output(file.fileno())

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Turn an error of the run's folder into the trial's outcome, and end the call."""
        try:
            yield
        except FundamentallmError as error:
            self.outcome = outcome_of(error)
        if self.outcome is not None:
            self.stop(self.outcome.stopped_by)

    # --- The engine's thread ---

    def messages(self) -> list[Row | Outcome]:
        """Return rows that are new, and in the end the outcome."""
        self.last_message_at = time.monotonic()
        if self.last_message_at >= self.next_stop_at:
            self._raise_in_function()
        found: list[Row | Outcome] = []
        has_ended = self.has_ended.is_set()
        if self.outcome is None:
            with self._recording():
                found += self._record(self._new(has_ended))
                if has_ended:
                    self.outcome = self._conclude()
        if has_ended and self.outcome is not None:
            found.append(self.outcome)
        return found

    def _new(self, has_ended: bool) -> Logged:
        """Return what the function logged: with W&B, or else as lines of JSON that it printed."""
        had_logs, printed = self.logs.exists, Logged()
        logged = self.logs.finish(LOG_SECONDS) if has_ended else self.logs.read()
        while self.printed:
            printed.add(self.lines.feed(self.printed.popleft()))
        if has_ended:
            printed.add(self.lines.finish())
        if self.logs.exists and not had_logs:
            self.record.drop_rows()  # lines that it printed before, which only looked like rows
        return logged if self.logs.exists else printed

    def _record(self, logged: Logged) -> list[Row]:
        self.record.add(logged)
        return [Row(row.step, 0, row.metrics) for row in logged.rows]

    def _conclude(self) -> Outcome:
        """Write the end of the run, and return it."""
        status, reason, warning = RunStatus.DONE, "exit", ""
        if self.stop_reason:
            status, reason = RunStatus.INTERRUPTED, self.stop_reason
        elif self.error is not None:
            status, reason = RunStatus.FAILED, type_and_message(self.error)
        else:
            warning = self.record.why_no_score(self.job.metric)
        with writing(self.folder.path):
            self.output.finish()
            if self.job.is_unknown_to_wandb:
                self.logs.detach(self.job.environment["WANDB_SWEEP_ID"])
        code = None if self.stop_reason else int(self.error is not None)
        self.record.finish(status, reason, code)
        return Outcome(status, reason, warning=warning)

    def stop(self, reason: str) -> None:
        """Raise `StopRun` in the function; Ctrl-C has raised KeyboardInterrupt there already."""
        with self.caller:
            if self.stop_reason or self.has_left:
                return
            self.stop_reason = reason
        wait = GRACE_SECONDS if reason == INTERRUPTED else 0.0
        self.next_stop_at = time.monotonic() + wait

    def kill(self) -> None:
        """Raise `StopRun` in the function now; nothing ends it more forcibly."""
        self.stop("killed")
        self._raise_in_function()

    def _raise_in_function(self) -> None:
        """Raise `StopRun` once the function runs Python code; again later if it catches it."""
        self.next_stop_at = time.monotonic() + GRACE_SECONDS
        with self.caller:
            if self.caller_id is not None:
                self.may_be_pending = True
                _raise_in_thread(self.caller_id, StopRun)

    def memory_gb(self) -> float:
        """Return 0: the process holds more than the run."""
        return 0.0

    def close(self) -> None:
        """Release the run's folder."""
        self.resources.close()

    # --- The caller's thread ---

    def call(self, function: Callable[[], object], interrupts: Interrupts) -> None:
        """Call the function as this run, unless it was stopped before; its errors are stored."""
        client = load_client()
        try:
            if interrupts.received:
                self.stop_reason = self.stop_reason or INTERRUPTED
            if self.outcome is not None or self.stop_reason:
                return
            with (
                _variables(self.job.environment, without=VARIABLES_OF_A_RUN),
                _copied(sys.stdout, self._write) as stdout,
                _copied(sys.stderr, self._write) as stderr,
                redirect_stdout(stdout),
                redirect_stderr(stderr),
            ):
                try:
                    if client is not None:
                        client.end()
                    self._call(function, interrupts)
                    if interrupts.received:  # even if the function caught the exception
                        self.stop_reason = self.stop_reason or INTERRUPTED
                    if client is not None:
                        client.finish_active_run(int(self.error is not None))
                        client.end()
                except Exception as error:  # of W&B's client
                    self.error = self.error or error
        finally:
            self.has_ended.set()

    def _write(self, text: str) -> None:
        """Take what the function printed."""
        data = text.encode("utf-8", "backslashreplace")
        self.printed.append(data)
        with suppress(OSError):  # a full disk is no error of what the function prints
            self.output.write(data)

    def _call(self, function: Callable[[], object], interrupts: Interrupts) -> None:
        try:
            try:
                interrupts.is_inside = True
                with self.caller:
                    self.caller_id = threading.get_ident()
                function()
            finally:
                self._leave(interrupts)
        except StopRun:
            self.stop_reason = self.stop_reason or "stopped"
        except KeyboardInterrupt:
            interrupts.received = True
        except BaseException as error:
            if not (isinstance(error, SystemExit) and error.code in (None, 0)):
                self.error = error
                own = error.__traceback__.tb_next if error.__traceback__ else None
                sys.stderr.write(
                    printable("".join(traceback.format_exception(type(error), error, own)))
                )

    def _leave(self, interrupts: Interrupts) -> None:
        """Make sure that nothing is raised in this thread from now on.

        A pending exception is raised and caught here. Python has no other way to take it back: its
        interpreter would go on looking for it, at every call, and under a debugger forever.
        """
        while True:
            try:
                interrupts.is_inside = False
                with self.caller:
                    self.caller_id, self.has_left = None, True
                if self.may_be_pending:
                    _raise_in_thread(threading.get_ident(), StopRun)  # in place of one that is
                    while True:
                        pass
                return
            except StopRun:
                self.may_be_pending = False
            except KeyboardInterrupt:  # raised a moment ago
                continue


class FunctionExecutor:
    """Executor whose trials are calls of a function in the thread of `call_all`."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function
        self.interrupts = Interrupts()
        self.waiting: queue.SimpleQueue[FunctionTrial] = queue.SimpleQueue()
        self.started: list[FunctionTrial] = []

    def start(self, job: ProgramJob) -> FunctionTrial:
        """Hand a job to the thread that calls the function."""
        trial = FunctionTrial(job)
        self.started.append(trial)
        self.waiting.put(trial)
        return trial

    def wait(self, trials: Sequence[FunctionTrial], seconds: float) -> None:
        """Wait until the call ends, at most `seconds`."""
        if trials:
            trials[0].has_ended.wait(seconds)
        else:
            time.sleep(seconds)

    def stop_requested(self) -> str:
        """Return why the sweep has to end, or ""."""
        return INTERRUPTED if self.interrupts.received else ""

    def close(self) -> None:
        """Release the folders of all trials; called in the engine's thread."""
        for trial in self.started:
            trial.close()

    def call_all(self, is_over: Callable[[], bool]) -> None:
        """Call the function for each trial, in this thread, until the engine's thread is over."""
        with self.interrupts:
            while not is_over():
                with suppress(queue.Empty):
                    self.waiting.get(timeout=POLL_SECONDS).call(self.function, self.interrupts)


class Interrupts:
    """Context in which Ctrl-C raises KeyboardInterrupt inside the function, and is noted elsewhere.

    A second Ctrl-C always raises it.
    """

    def __init__(self) -> None:
        self.received = False
        self.is_inside = False
        self._previous: Any = None

    def __enter__(self) -> Interrupts:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and callable(signal.getsignal(signal.SIGINT)):  # not ignored, as by nohup
            self._previous = signal.signal(signal.SIGINT, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        is_second, self.received = self.received, True
        if self.is_inside or is_second:
            raise KeyboardInterrupt


class _Copied:
    """A stream that also hands its text to a run, until the run ends.

    Others may keep it longer, such as a logger that the function set up.
    """

    def __init__(self, stream: TextIO, copy: Callable[[str], None]) -> None:
        self.stream = stream
        self.copy: Callable[[str], None] | None = copy

    def write(self, text: str) -> int:
        if self.copy is not None:
            self.copy(text)
        return self.stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def _copied(stream: TextIO, copy: Callable[[str], None]) -> Iterator[TextIO]:
    copied = _Copied(stream, copy)
    try:
        yield cast(TextIO, copied)
    finally:
        copied.copy = None


@contextmanager
def _variables(variables: Mapping[str, str], *, without: Sequence[str]) -> Iterator[None]:
    """Set environment variables, remove others, and restore all of them at the end."""
    before = {name: os.environ.get(name) for name in (*without, *variables)}
    for name in without:
        os.environ.pop(name, None)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _raise_in_thread(thread_id: int, exception: type[BaseException]) -> None:
    """Raise an exception in a thread when it next runs Python code."""
    value = ctypes.py_object(exception)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), value)
