"""Engine of a sweep on one machine: claims runs, starts their processes, stores the results."""

from __future__ import annotations

import math
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from fundamentallm.config.fields import ConfigError
from fundamentallm.files.atomic import DiskError, writing
from fundamentallm.files.run_folder import RunFolderError
from fundamentallm.machine.system_limits import SystemLimitError
from fundamentallm.status import FAULTS, FINISHED, HAND, RANKED, RunStatus, is_stopped_early
from fundamentallm.sweep.engine.concurrency import Concurrency, Resources
from fundamentallm.sweep.engine.disk_wait import DiskWait
from fundamentallm.sweep.engine.executor import Executor
from fundamentallm.sweep.engine.job import JobMaker, Outcome, Row
from fundamentallm.sweep.engine.observer import Observer
from fundamentallm.sweep.engine.running_trial import RunningTrial
from fundamentallm.sweep.file.diagnostics import DisplacedError, SweepError
from fundamentallm.sweep.file.hyperband import Reached
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.search.base import Search, Values
from fundamentallm.sweep.store.database import StorageUnavailableError
from fundamentallm.sweep.store.records import (
    Run,
    RunIndex,
    Trial,
    lazy_past_runs,
    reason_to_give_up,
    score_of,
    target_is_reached,
)
from fundamentallm.sweep.store.run_store import RunStore, TrialLostError
from fundamentallm.sweep.store.score_cap import score_of_guess
from fundamentallm.sweep.store.sweep_folder import SweepFolder

STORE_SECONDS = 2.0  # between two reads of other workers' runs
MESSAGE_SECONDS = 0.25
SAVE_SECONDS = 60.0  # for trials to save when the sweep has to stop


@dataclass(frozen=True)
class EngineSettings:
    """Settings of one worker of a sweep."""

    resources: Resources
    retries: int = 0
    """Retries of a run that failed by an error of its own."""
    count: int | None = None
    """Most runs to claim here; None for no limit."""
    failures: int = 5
    """First failures in a row after which the worker stops."""
    wait: float = 0.0
    """Timeout in seconds for a full disk or an unavailable storage."""


class Engine:
    """One worker of a sweep: runs trials, several at a time, until no run is left."""

    def __init__(
        self,
        store: RunStore,
        folder: SweepFolder,
        sweep: SweepFile,
        search: Search,
        settings: EngineSettings,
        *,
        jobs: JobMaker,
        executor: Executor,
        observer: Observer,
    ) -> None:
        """Set up a worker; `run` claims its runs.

        Args:
            store: Hands out runs and stores their results.
            folder: Folder of the runs.
            sweep: Parsed sweep file.
            search: Suggests the values of new runs.
            settings: This worker's resources and limits.
            jobs: Makes a job for each run.
            executor: Starts a trial for each job.
            observer: Receives the progress of the sweep.
        """
        self.store, self.folder, self.sweep, self.search = store, folder, sweep, search
        self.settings = settings
        self.jobs, self.executor, self.observer = jobs, executor, observer
        self.left_to_claim = settings.count
        self.metric = sweep.ranks_by
        caps = [cap for cap in (sweep.run_cap, search.size) if cap is not None]
        self.limit = min(caps, default=None)
        self.running: list[RunningTrial] = []
        self.incomplete: set[int] = set()
        """Finished runs whose folders were missing or incomplete at the start."""
        self.statuses: dict[int, RunStatus] = {}
        """Last status of each run that was tried here."""
        if sweep.hyperband is not None:
            self.reached = Reached(sweep.hyperband)
            store.index.subscribe(self._note_reached)
        self.concurrency = Concurrency(settings.resources, observer.notify)
        self.is_paused = False
        """True if a person has paused the sweep, as of the last read."""
        self.is_over = threading.Event()
        self.last_messages_at = time.monotonic()
        self.disk = DiskWait(folder.path, settings.wait, observer.notify)
        self.stop_requested: Callable[[], str] = lambda: ""
        store.set_timeout(
            settings.wait, observer.notify, is_cancelled=lambda: bool(self.stop_requested())
        )

    def run(self, stop_requested: Callable[[], str]) -> str:
        """Work until no run is left or a reason to stop comes up; return that reason or ""."""
        self.stop_requested = stop_requested
        heartbeats = threading.Thread(target=self._send_heartbeats, daemon=True)
        heartbeats.start()
        next_read, stopping, waiting = 0.0, "", False
        self.observer.update(runs := self.store.runs(), self.limit)
        self._find_incomplete(runs)
        try:
            while True:
                size = self.concurrency.size
                has_room = self._handle_messages() or self.concurrency.size > size
                if not stopping and (stopping := self._reason_to_stop()):
                    for each in self.running:
                        each.process.stop(stopping)
                if not stopping and (has_room or time.monotonic() >= next_read):
                    next_read = time.monotonic() + STORE_SECONDS
                    self._read_pause()
                    if not self.is_paused and self.disk.has_room():
                        self._start_runs()
                    runs = self.store.runs()
                    self.observer.update(runs, self.limit, is_paused=self.is_paused)
                    self._stop_by_hand(runs)
                    if not (self.running or self.disk.is_waiting):
                        elsewhere = runs.how_many(RunStatus.RUNNING, RunStatus.WAITING)
                        is_held = self.is_paused and not self._is_complete(runs)
                        if not (elsewhere or is_held) or self._has_claimed_all():
                            return ""
                        if not (waiting or is_held):
                            waiting = True
                            self.observer.notify(f"waiting for {elsewhere} runs of other workers")
                if stopping and not self.running:
                    return stopping
                self._wait_for_messages()
        except (StorageUnavailableError, DiskError, DisplacedError, SystemLimitError) as error:
            self._save_all(str(error))
            self.folder.check_in_place()  # a folder that moved is the better explanation
            raise
        finally:
            self.is_over.set()
            for each in self.running:
                each.process.kill()
            heartbeats.join(timeout=5)

    def _read_pause(self) -> None:
        """Read whether the sweep is paused, and say so when that changes."""
        before, self.is_paused = self.is_paused, self.store.is_paused()
        if self.is_paused and not before:
            command = f"fundamentallm resume {shlex.quote(str(self.folder.path))}"
            self.observer.notify(f"the sweep is paused: no new run starts; go on with: {command}")
        elif before and not self.is_paused:
            self.observer.notify("the sweep is resumed")

    def _is_complete(self, runs: RunIndex) -> bool:
        return self.limit is not None and runs.how_many(*FINISHED) >= self.limit

    def _stop_by_hand(self, runs: RunIndex) -> None:
        """Stop the trials here that a person asked to stop."""
        for each in self.running:
            if runs.numbered(each.run.number).last.stop_requested:
                each.process.stop(HAND)

    def _reason_to_stop(self) -> str:
        return (
            self.stop_requested()
            or reason_to_give_up(self.statuses.values(), self.settings.failures)
            or self.folder.why_displaced()
        )

    def _wait_for_messages(self) -> None:
        self.executor.wait([each.process for each in self.running], MESSAGE_SECONDS)

    def _save_all(self, reason: str) -> None:
        """Ask trials to save and wait for them; their results cannot be stored now."""
        for each in self.running:
            each.process.stop(reason)
        deadline = time.monotonic() + SAVE_SECONDS
        while self.running and time.monotonic() < deadline:
            self._wait_for_messages()
            for each in list(self.running):
                if any(isinstance(message, Outcome) for message in each.process.messages()):
                    each.process.close()
                    self.running.remove(each)

    def _has_claimed_all(self) -> bool:
        return self.left_to_claim is not None and self.left_to_claim <= 0

    def _start_runs(self) -> None:
        """Start runs while there is room."""
        self.concurrency.check_first_row()
        taken = {each.slot for each in self.running}
        free = sorted(set(range(self.settings.resources.workers)) - taken)
        while free:
            if len(self.running) >= self.concurrency.size or self._has_claimed_all():
                return
            if self._reason_to_stop():
                return
            try:
                run = self.store.claim(
                    next_values=self._next_values,
                    retries=self.settings.retries,
                    redo=[
                        number for number in sorted(self.incomplete) if self._is_incomplete(number)
                    ],
                    parameters=self.sweep.parameters,
                )
            except InterruptedError:  # asked to stop while others held the lock
                return
            if run is None:
                return
            if self.left_to_claim is not None:
                self.left_to_claim -= 1
            if self._start(run, free[0]):
                free.pop(0)
            if self.disk.is_waiting:
                return

    def _find_incomplete(self, runs: Sequence[Run]) -> None:
        """Find finished runs whose folders are missing or incomplete, to run them again.

        With a storage on a server nothing is checked: the folder may be on another machine.
        """
        if not self.store.is_local:
            return
        finished = [run.number for run in runs if run.is_finished]
        self.incomplete = {number for number in finished if self._is_incomplete(number)}
        for number in sorted(self.incomplete):
            folder = self.folder.run(number).path
            what = "is incomplete" if folder.exists() else "is gone"
            self.observer.notify(
                f"run {number + 1} had finished, but {folder.name} {what}; it is run again"
            )

    def _is_incomplete(self, number: int) -> bool:
        return not self.folder.run(number).has_ended()

    def _next_values(self, number: int, runs: RunIndex) -> Values | None:
        """Return the values of a new run; None if the sweep needs no more."""
        if self.limit is not None and number >= self.limit:
            return None
        if target_is_reached(runs, self.metric):
            return None
        return self.search.suggest(number, lazy_past_runs(runs, self.metric))

    def _start(self, run: Run, slot: int) -> bool:
        """Start the trial of a run; return False if the run has ended instead."""
        previous = run.trials[-2] if len(run.trials) > 1 else None
        folder = self.folder.run(run.number)
        try:
            # The process of any lost trial may still write there, not only that of the previous.
            was_lost = any(trial.status == RunStatus.LOST for trial in run.trials[:-1])
            if was_lost or (previous is not None and self.folder.is_half_replaced(run.number)):
                with writing(folder.path):
                    self.folder.replace_run(run.number)
            self.folder.create_run(run.number)
            if run.last.stop_requested:  # before it started, or its worker was gone
                folder.write_end(RunStatus.INTERRUPTED, HAND)
                self._finish(
                    run, RunStatus.STOPPED, HAND, started_at=time.monotonic(), history=run.history
                )
                return False
            job = self.jobs.job(run, slot)
        except (SweepError, ConfigError) as error:
            self._finish(run, RunStatus.FAILED, str(error), started_at=time.monotonic())
            return False
        except (DiskError, RunFolderError) as error:
            self._handle_start_error(run, error)
            return False
        resumes = self.jobs.resumes(run)
        has_history = previous is not None and previous.history
        if has_history and not resumes and (reason := self.jobs.why_restarted(run)):
            self.observer.notify(f"run {run.number + 1} restarts: {reason}")
        self.observer.started(run, resumes=resumes)
        process = self.executor.start(job)
        self.running.append(RunningTrial(run, process, slot, started_at=time.monotonic()))
        self.concurrency.started(slot)
        return True

    def _handle_start_error(self, run: Run, error: DiskError | RunFolderError) -> None:
        """Handle a folder that cannot be written, because the disk is full or otherwise."""
        try:
            self.disk.probe()
        except DiskError:
            self._finish(run, RunStatus.INTERRUPTED, str(error), started_at=time.monotonic())
            self._handle_full_disk(run, str(error))
        else:
            self._finish(run, RunStatus.FAILED, str(error), started_at=time.monotonic())

    def _handle_full_disk(self, run: Run, reason: str) -> None:
        if self.left_to_claim is not None:  # the run did not really start
            self.left_to_claim += 1
        if not (self.stop_requested() or self.folder.why_displaced()):
            self.disk.write_failed(run.number, reason)

    def _handle_messages(self) -> bool:
        """Handle what trials sent; return whether one ended."""
        has_ended, now = False, time.monotonic()
        if now - self.last_messages_at > self.store.lease / 2:
            for each in self.running:  # this worker was suspended, by Ctrl-Z say, and they too
                each.process.last_message_at = now
        self.last_messages_at = now
        for each in list(self.running):
            messages = each.process.messages()
            if rows := [message for message in messages if isinstance(message, Row)]:
                self._handle_rows(each, rows)
            for message in messages:
                if isinstance(message, Outcome):
                    self._end(each, message)
                    has_ended = True
            silence = time.monotonic() - each.process.last_message_at
            if each in self.running and silence > self.store.lease:
                self.observer.notify(f"run {each.run.number + 1} does not respond; it is killed")
                each.process.kill()
        return has_ended

    def _handle_rows(self, each: RunningTrial, rows: Sequence[Row]) -> None:
        """Handle new rows together: another program may log thousands a second."""
        name = self.metric.name
        values = {row.step: row.metrics.get(name) for row in rows}
        if not each.has_rows:  # a resumed run has earlier rows
            each.has_rows = True
            earlier = self.folder.run(each.run.number).rows()
            values = {r["step"]: r.get(name) for r in earlier if r["step"] < rows[0].step} | values
        for row in rows:
            self.observer.row(each.run, row)
            each.evaluations += "val_loss" in row.metrics
        self.concurrency.row_logged(each.slot, rows[-1].metrics, each.process.memory_gb)
        if each.evaluations > 1:  # a checkpoint was written after each but the newest
            self.disk.write_succeeded(each.run.number)
        if self._report(each, values):
            self._stop_if_far_behind(each)

    def _report(self, each: RunningTrial, values: Mapping[int, float | None]) -> bool:
        """Store the finite values of the metric, by step; return whether there are any."""
        finite = {s: v for s, v in values.items() if v is not None and math.isfinite(v)}
        if not finite or each.is_lost:
            return False
        each.history |= finite
        try:
            self.store.report(each.run.last.id, finite)
        except TrialLostError:
            self._lose(each)
        return True

    def _stop_if_far_behind(self, each: RunningTrial) -> None:
        hyperband = self.sweep.hyperband
        if hyperband is None or each.is_lost:
            return
        self.store.runs()  # brings `reached` up to date
        own = self._losses([each.history[step] for step in sorted(each.history)])
        if hyperband.stops(own, self.reached):
            each.process.stop("hyperband")

    def _note_reached(self, before: Run | None, now: Run) -> None:
        history = () if before is None else before.history
        self.reached.change(self._losses(history), self._losses(now.history))

    def _losses(self, history: Sequence[float]) -> list[float]:
        """Return the metric's values with a sign by which lower is better."""
        return [self.metric.sign * value for value in history]

    def _lose(self, each: RunningTrial) -> None:
        each.is_lost = True
        each.process.kill()
        self.observer.notify(
            f"run {each.run.number + 1} was given to another worker while this one did not "
            "respond; its results here do not count"
        )

    def _end(self, each: RunningTrial, outcome: Outcome) -> None:
        each.process.close()
        self.running.remove(each)
        self.concurrency.ended(each.slot)
        if each.is_lost:
            return
        if outcome.warning:
            self.observer.notify(f"run {each.run.number + 1}: {outcome.warning}")
        status = outcome.status
        if is_stopped_early(status, outcome.stopped_by):
            status = RunStatus.STOPPED
        self._finish(
            each.run, status, outcome.stopped_by,
            started_at=each.started_at, running=each, history=list(each.history.values()),
        )  # fmt: skip
        if outcome.disk:
            self._handle_full_disk(each.run, outcome.stopped_by)
        elif status in RANKED:
            self.disk.write_succeeded(each.run.number)

    def _finish(
        self,
        run: Run,
        status: RunStatus,
        note: str,
        *,
        started_at: float,
        running: RunningTrial | None = None,
        history: Sequence[float] = (),
    ) -> None:
        """Store the end of a trial; `history` scores it if the rows of its file cannot be read."""
        folder = self.folder.run(run.number)
        if status in FAULTS:
            shown = RunStatus.FAILED if status == RunStatus.DIED else status
            with suppress(DiskError, RunFolderError):
                folder.write_end(shown, note)
        score = score_of(folder, status, self.metric)
        if score is None:
            score = self.metric.best(history)
        guess = score_of_guess(self.metric, folder.read_summary())
        seconds = time.monotonic() - started_at
        try:
            self.store.finish(
                run.last.id, status, score=score, seconds=seconds, note=note, guess=guess
            )
        except TrialLostError:
            if running is not None:
                self._lose(running)
            return
        ended = Trial(
            run.last.id, run.number, run.values, status, run.last.owner,
            score=score, seconds=seconds, note=note, guess=guess,
        )  # fmt: skip
        self.statuses[run.number] = status
        self.observer.ended(run, ended)

    def _send_heartbeats(self) -> None:
        """Renew the lease on this worker's trials until the engine ends."""
        while not self.is_over.wait(self.store.lease / 6):
            with suppress(Exception):  # an unavailable storage is tried again at the next beat
                self.store.beat(sorted(self.store.claimed.copy()))
