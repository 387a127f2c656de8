"""Supervisor of another program: starts it, records what it logs, and reports to the worker."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fundamentallm.errors import FundamentallmError
from fundamentallm.files.atomic import DiskError, writing
from fundamentallm.files.held_folder import HeldFolder
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.status import RunStatus
from fundamentallm.sweep.engine.disk_wait import PROBE_BYTES
from fundamentallm.sweep.engine.job import Outcome, Row, Started
from fundamentallm.sweep.engine.run_record import (
    LOG_SECONDS,
    Record,
    earlier_logs,
    write_parameters,
)
from fundamentallm.sweep.engine.trial_pipe import TrialPipe
from fundamentallm.sweep.program.environment import OWN_FILES, RUN_DIR
from fundamentallm.sweep.program.json_lines import JsonFile, JsonLines
from fundamentallm.sweep.program.logged import Logged
from fundamentallm.sweep.program.output import Output
from fundamentallm.sweep.program.process import RunningProgram, StopSequence, kill_leftovers
from fundamentallm.sweep.program.transaction_log import TransactionLogs

if TYPE_CHECKING:
    from fundamentallm.sweep.engine.program_job import ProgramJob

POLL_SECONDS = 0.2
RELEASE_SECONDS = 5.0
"""Timeout for the lock of a process that was just killed."""
MOST_READS = 64
"""Reads of the output before anything else is looked at."""
OUTPUT_SECONDS = 1.0
"""Time for the rest of the output after the program has ended: others may hold its pipe open."""
TIMED_OUT = "--trial-timeout"
REMOVED = f"its folder was removed while it ran; let the program write into {RUN_DIR} alone"
KILLED = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that come from outside; others are the program's own fault."""
BY_A_SHELL = 128
"""A shell exits with this plus the signal that killed its command."""


def run_program(job: ProgramJob, start: Callable[[], RunningProgram], pipe: TrialPipe) -> Outcome:
    """Start the program of a job and follow it to its end, in the current folder."""
    folder = RunFolder(".")
    try:
        with folder.held(wait=RELEASE_SECONDS):
            kill_leftovers(RUN_DIR, job.environment[RUN_DIR])
            return Supervisor(job, folder, pipe).run(start)
    except FundamentallmError as error:
        return outcome_of(error)


def outcome_of(error: FundamentallmError) -> Outcome:
    """Return the end of a run that an error ended; on a full disk, the worker waits for room."""
    if not isinstance(error, DiskError):
        return Outcome(RunStatus.FAILED, str(error))
    if isinstance(error.__cause__, FileNotFoundError):
        return Outcome(RunStatus.FAILED, REMOVED)
    return Outcome(RunStatus.INTERRUPTED, str(error), disk=True)


class Supervisor:
    """One attempt of a run: a program, its output, and what it logs."""

    def __init__(self, job: ProgramJob, folder: RunFolder, pipe: TrialPipe) -> None:
        self.job, self.folder, self.pipe = job, folder, pipe
        self.output = Output(1)
        earlier = earlier_logs(folder)
        self.record = Record(job, folder, earlier)
        working_folder = Path(job.working_folder)
        self.logs = TransactionLogs(
            Path(), job.run_id, working_folder=working_folder, ignore=earlier
        )
        self.printed = JsonLines()
        name = job.settings.metrics
        places = (Path(OWN_FILES), working_folder) if name else ()
        self.files = [JsonFile(path) for path in dict.fromkeys(place / name for place in places)]
        """Files that --metrics may name: in the folder of the run, or where the program starts."""
        self.started_at = time.monotonic()

    def run(self, start: Callable[[], RunningProgram]) -> Outcome:
        """Run the program to its end."""
        write_parameters(self.job, self.folder)
        self.record.start()
        self.record.complete_earlier()
        try:
            self.process = start()
        except OSError as error:
            return self._not_started(error)
        self.pipe.send(Started(self.process.group))
        self.stop = StopSequence(self.process)
        try:
            reason = self._follow()
            code = self.process.wait()
        finally:
            self.process.kill()
            self.process.close()
        return self._conclude(code, reason)

    def _not_started(self, error: OSError) -> Outcome:
        name = error.filename or self.job.command[0]
        reason = f"{name}: {error.strerror}; the command is: {self.job.shown}"
        self.record.finish(RunStatus.FAILED, reason, None)
        return Outcome(RunStatus.FAILED, reason)

    def _follow(self) -> str:
        """Record what the program does until it ends; return the reason if it was stopped."""
        reason, timeout = "", 60 * self.job.settings.timeout
        waited_for: list[Any] = [self.pipe.pipe, self.process.output]
        if self.process.end is not None:
            waited_for.append(self.process.end)
        while self.process.exit_code() is None:
            wait(waited_for, POLL_SECONDS)
            if not self._copy_output() and self.process.output in waited_for:
                waited_for.remove(self.process.output)
            self._record_new()
            stopped_by = self.pipe.stop_received()
            reason = reason or stopped_by
            if not reason and timeout and time.monotonic() - self.started_at > timeout:
                reason = TIMED_OUT
            if self.pipe.worker_is_gone:
                self.process.kill()
            elif reason:
                self.stop.advance()
        self.process.kill()  # what it left in its group would write no more into the log
        self._finish_output()
        self._record(self.logs.finish(LOG_SECONDS))
        if self.job.is_unknown_to_wandb:
            with writing(Path("wandb")):
                self.logs.detach(self.job.environment["WANDB_SWEEP_ID"])
        for file in self.files:
            self._record(file.finish())
        return reason

    def _copy_output(self) -> bool:
        """Store new output, and rows in it; return False at its end."""
        data: bytes | None = b""
        for _ in range(MOST_READS):
            if not (data := self.process.read()):
                break
            with writing(Path("output.txt")):
                self.output.write(data)
            if not self.files:
                self._record_printed(self.printed.feed(data))
        return data is not None

    def _finish_output(self) -> None:
        deadline = time.monotonic() + OUTPUT_SECONDS
        while self._copy_output() and time.monotonic() < deadline:
            wait([self.process.output], OUTPUT_SECONDS)
        if not self.files:
            self._record_printed(self.printed.finish())
        with writing(Path("output.txt")):
            self.output.finish()

    def _record_new(self) -> None:
        had_logs = self.logs.exists
        logged = self.logs.read()
        if self.logs.exists and not had_logs and not self.files:
            self.record.drop_rows()  # lines that it printed before, which only looked like rows
        self._record(logged)
        for file in self.files:
            self._record(file.read())

    def _record_printed(self, logged: Logged) -> None:
        if not self.logs.exists:
            self._record(logged)

    def _record(self, logged: Logged) -> None:
        self.record.add(logged)
        for row in logged.rows:
            self.pipe.send(Row(row.step, 0, row.metrics))

    def _conclude(self, code: int, stopped_by: str) -> Outcome:
        """Write the end of the run, and return it."""
        status, reason = self._end(code, stopped_by)
        if status == RunStatus.FAILED and not stopped_by:  # perhaps for lack of room
            with writing(self.folder.path), HeldFolder(self.folder.path, self.folder.root) as held:
                held.probe(PROBE_BYTES)
        warning = ""
        if status == RunStatus.FAILED:
            warning = "\n".join(["the last lines of its output:", *self._last_lines()])
        elif status == RunStatus.DONE:
            warning = self.record.why_no_score(self.job.metric)
        shown = RunStatus.FAILED if status == RunStatus.DIED else status
        self.record.finish(shown, reason, code)
        return Outcome(status, reason, warning=warning)

    def _end(self, code: int, stopped_by: str) -> tuple[RunStatus, str]:
        """Return how the run ended, and why."""
        if stopped_by == TIMED_OUT:
            minutes = self.job.settings.timeout
            return RunStatus.FAILED, f"stopped by {TIMED_OUT} after {minutes:g} minutes"
        if stopped_by:
            return RunStatus.INTERRUPTED, stopped_by
        if code == 0:
            return RunStatus.DONE, "exit"
        number = -code if code < 0 else code - BY_A_SHELL
        if number in KILLED:
            hint = ", perhaps because memory ran out" if number == signal.SIGKILL else ""
            return RunStatus.DIED, f"killed by {signal.Signals(number).name}{hint}"
        if code < 0:
            return RunStatus.FAILED, f"killed by {signal.Signals(number).name}, its own fault"
        last = self.output.reason()
        return RunStatus.FAILED, f"exit code {code}: {last}" if last else f"exit code {code}"

    def _last_lines(self) -> list[str]:
        return [f"    {line}" for line in self.output.last_lines()] or ["    (it printed nothing)"]
