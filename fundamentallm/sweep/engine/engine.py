"""Runs a sweep on this machine: claims runs, starts a process for each, notes what they find."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from fundamentallm.config.fields import ConfigError
from fundamentallm.files.atomic import DiskError, writing
from fundamentallm.files.run_folder import RunFolderError
from fundamentallm.machine.system_limits import SystemLimitError
from fundamentallm.status import FAULTS, RANKED, RunStatus
from fundamentallm.sweep.engine.active import RunningTrial
from fundamentallm.sweep.engine.concurrency import Concurrency, Resources
from fundamentallm.sweep.engine.disk_wait import DiskWait
from fundamentallm.sweep.engine.job import JobMaker, Outcome, Row
from fundamentallm.sweep.engine.observer import Observer
from fundamentallm.sweep.engine.trial_process import ForkServer
from fundamentallm.sweep.file.diagnostics import DisplacedError, SweepError
from fundamentallm.sweep.file.hyperband import Reached
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.search.base import Values
from fundamentallm.sweep.search.choose import ChosenSearch
from fundamentallm.sweep.store.database import AwayError
from fundamentallm.sweep.store.records import (
    Run,
    RunIndex,
    Trial,
    in_vain,
    score_of,
    target_is_reached,
    tries,
)
from fundamentallm.sweep.store.run_store import RunStore, TrialLostError
from fundamentallm.sweep.store.score_cap import score_of_guess
from fundamentallm.sweep.store.sweep_folder import SweepFolder

LOOK_SECONDS = 2.0  # between looks at what other workers have left behind
LISTEN_SECONDS = 0.25
SAVE_SECONDS = 60.0  # for trials to save, when the sweep has to stop


class Engine:
    """One worker of a sweep: as many trials at a time as do here, until there is no more."""

    def __init__(
        self,
        store: RunStore,
        folder: SweepFolder,
        sweep: SweepFile,
        method: ChosenSearch,
        *,
        means: Resources,
        jobs: JobMaker,
        observer: Observer,
        workers: ForkServer,
        retries: int = 0,
        count: int | None = None,
        wait: float = 0.0,
    ) -> None:
        """Nothing is claimed until `run`.

        Args:
            store: Who does what.
            folder: Where runs are written.
            sweep: The sweep file.
            method: Chooses values.
            means: What this machine gives.
            jobs: Says what each run is to be.
            observer: Told of everything.
            workers: Starts processes.
            retries: How often a run that failed by an error of its own is tried again.
            count: The most runs that are claimed here.
            wait: Seconds to wait for a full disk, or for a storage that is away.
        """
        self.store, self.folder, self.sweep, self.method = store, folder, sweep, method
        self.means, self.jobs, self.observer, self.workers = means, jobs, observer, workers
        self.retries, self.left_to_claim = retries, count
        self.metric = sweep.ranks_by
        caps = [cap for cap in (sweep.run_cap, method.search.size) if cap is not None]
        self.limit = min(caps, default=None)
        self.active: list[RunningTrial] = []
        self.gone: set[int] = set()
        """Finished runs without a whole folder, when we began."""
        self.ends: dict[int, str] = {}  # how each run that was tried here ended at last
        if sweep.hyperband is not None:
            self.reached = Reached(sweep.hyperband)
            store.known.read_by(self._note_reached)
        self.concurrency = Concurrency(means, observer.say)
        self.over = threading.Event()
        self.listened = time.monotonic()
        self.disk = DiskWait(folder.path, wait, observer.say)
        self.stop_requested: Callable[[], str] = lambda: ""
        store.database.patience = wait
        store.database.say = observer.say
        store.database.meanwhile = lambda: bool(self.stop_requested())

    def run(self, stop_requested: Callable[[], str]) -> str:
        """Work until the sweep has no more runs, or `stop_requested` says why not; that reason."""
        self.stop_requested = stop_requested
        beating = threading.Thread(target=self._beat, daemon=True)
        beating.start()
        next_look, stopping, waiting = 0.0, "", False
        self.observer.look(runs := self.store.runs(), self.limit)
        self._look_for_folders(runs)
        try:
            while True:
                if not stopping and (stopping := self._why_to_stop()):
                    for each in self.active:
                        each.trial.stop(stopping)
                size = self.concurrency.size
                news = self._hear() or self.concurrency.size > size
                if not stopping and (news or time.monotonic() >= next_look):
                    next_look = time.monotonic() + LOOK_SECONDS
                    if self.disk.has_room():
                        self._fill()
                    self.observer.look(runs := self.store.runs(), self.limit)
                    if not (self.active or self.disk.waits):
                        elsewhere = runs.how_many(RunStatus.RUNNING, RunStatus.WAITING)
                        if not elsewhere or self._has_claimed_all():
                            return ""
                        if not waiting:
                            waiting = True
                            self.observer.say(f"waiting for {elsewhere} runs of other workers")
                if stopping and not self.active:
                    return stopping
                self.workers.wait([each.trial for each in self.active], LISTEN_SECONDS)
        except (AwayError, DiskError, DisplacedError, SystemLimitError) as error:
            self._save_all(str(error))
            self.folder.check_in_place()  # else that is why
            raise
        finally:
            self.over.set()
            for each in self.active:
                each.trial.kill()
            beating.join(timeout=5)

    def _why_to_stop(self) -> str:
        return self.stop_requested() or in_vain(self.ends.values()) or self.folder.why_displaced()

    def _save_all(self, reason: str) -> None:
        """Ask trials to save, and wait for them; nobody can be told how they ended."""
        for each in self.active:
            each.trial.stop(reason)
        deadline = time.monotonic() + SAVE_SECONDS
        while self.active and time.monotonic() < deadline:
            self.workers.wait([each.trial for each in self.active], LISTEN_SECONDS)
            for each in list(self.active):
                if any(isinstance(message, Outcome) for message in each.trial.messages()):
                    each.trial.close()
                    self.active.remove(each)

    def _has_claimed_all(self) -> bool:
        return self.left_to_claim is not None and self.left_to_claim <= 0

    def _fill(self) -> None:
        """Start runs while there is room."""
        self.concurrency.wait_no_longer()
        taken = {each.slot for each in self.active}
        for slot in sorted(set(range(self.means.workers)) - taken):
            if len(self.active) >= self.concurrency.size or self._has_claimed_all():
                return
            if self.folder.why_displaced():
                return
            try:
                run = self.store.claim(
                    next_values=self._next_values,
                    retries=self.retries,
                    redo=[number for number in sorted(self.gone) if self._is_not_whole(number)],
                    parameters=self.sweep.parameters,
                )
            except InterruptedError:  # asked to stop while others held the lock
                return
            if run is None:
                return
            if self.left_to_claim is not None:
                self.left_to_claim -= 1
            self._start(run, slot)
            if self.disk.waits:
                return

    def _look_for_folders(self, runs: Sequence[Run]) -> None:
        """Notice finished runs whose folders are gone, or not whole: they are run again.

        Not where the storage is on a server: such a run may lie on another machine.
        """
        if not self.store.database.is_local:
            return
        finished = [run.number for run in runs if run.is_finished]
        self.gone = {number for number in finished if self._is_not_whole(number)}
        for number in sorted(self.gone):
            folder = self.folder.run(number).path
            what = "holds less than that" if folder.exists() else "is gone"
            self.observer.say(
                f"run {number + 1} had finished, and {folder.name} {what}: it is run again"
            )

    def _is_not_whole(self, number: int) -> bool:
        return not self.folder.run(number).shows_its_end()

    def _next_values(self, number: int, runs: RunIndex) -> Values | None:
        """The values of a new run; None if the sweep has enough."""
        if self.limit is not None and number >= self.limit:
            return None
        if target_is_reached(runs, self.metric):
            return None
        return self.method.search.suggest(number, tries(runs, self.metric))

    def _start(self, run: Run, slot: int) -> None:
        before = run.attempts[-2] if len(run.attempts) > 1 else None
        folder = self.folder.run(run.number)
        try:
            # Whoever lost an earlier attempt may still write there, whatever came after it.
            was_lost = any(attempt.status == RunStatus.LOST for attempt in run.attempts[:-1])
            if was_lost or (before is not None and self.folder.was_left(run.number)):
                with writing(folder.path):
                    self.folder.take_over(run.number)
            self.folder.create_run(run.number)
            job = self.jobs.job(run, slot)
        except (SweepError, ConfigError) as error:
            self._finish(run, RunStatus.FAILED, str(error), began=time.monotonic())
            return
        except (DiskError, RunFolderError) as error:
            self._could_not_start(run, error)
            return
        going_on = folder.last.exists()
        if before is not None and before.history and not going_on:
            self.observer.say(
                f"run {run.number + 1} starts again: its checkpoint is not on this machine"
            )
        self.observer.started(run, going_on=going_on)
        trial = self.workers.start(job)
        self.active.append(RunningTrial(run, trial, slot, began=time.monotonic()))
        self.concurrency.started(slot)

    def _could_not_start(self, run: Run, error: DiskError | RunFolderError) -> None:
        """Its folder cannot be written: for want of room, or for a reason of its own."""
        try:
            self.disk.probe()
        except DiskError:
            self._finish(run, RunStatus.INTERRUPTED, str(error), began=time.monotonic())
            self._meet_full_disk(run, str(error))
        else:
            self._finish(run, RunStatus.FAILED, str(error), began=time.monotonic())

    def _meet_full_disk(self, run: Run, reason: str) -> None:
        if self.left_to_claim is not None:  # the run is none of those that were asked for
            self.left_to_claim += 1
        if not (self.stop_requested() or self.folder.why_displaced()):
            self.disk.trouble(run.number, reason)

    def _hear(self) -> bool:
        """Take in what trials said; whether one ended."""
        ended, now = False, time.monotonic()
        if now - self.listened > self.store.lease / 2:
            for each in self.active:  # we were stopped, by Ctrl-Z say, and the trials with us
                each.trial.heard = now
        self.listened = now
        for each in list(self.active):
            for message in each.trial.messages():
                if isinstance(message, Outcome):
                    self._end(each, message)
                    ended = True
                else:
                    self._take_row(each, message)
            if each in self.active and time.monotonic() - each.trial.heard > self.store.lease:
                self.observer.say(f"run {each.run.number + 1} gives no sign of life; it is killed")
                each.trial.kill()
        return ended

    def _take_row(self, each: RunningTrial, row: Row) -> None:
        if not each.heard_of:  # a run that goes on has a past
            each.heard_of = True
            past = self.folder.run(each.run.number).rows()
            name = self.metric.name
            self._note(each, {r["step"]: r.get(name) for r in past if r["step"] < row.step})
        self.observer.row(each.run, row)
        self.concurrency.heard(each.slot, each.trial.pid, row.metrics)
        each.evaluations += "val_loss" in row.metrics
        if each.evaluations > 1:  # after each but the newest a checkpoint was written
            self.disk.relief(each.run.number)
        if self._note(each, {row.step: row.metrics.get(self.metric.name)}):
            self._stop_if_far_behind(each)

    def _note(self, each: RunningTrial, values: Mapping[int, float | None]) -> bool:
        """Note the values of the metric, by steps; whether there were any."""
        good = {s: v for s, v in values.items() if v is not None and math.isfinite(v)}
        if not good or each.lost:
            return False
        each.history |= good
        try:
            self.store.report(each.run.last.id, good)
        except TrialLostError:
            self._lose(each)
        return True

    def _stop_if_far_behind(self, each: RunningTrial) -> None:
        hyperband = self.sweep.hyperband
        if hyperband is None or each.lost:
            return
        self.store.runs()  # which tells `reached` of what is new
        own = self._losses([each.history[step] for step in sorted(each.history)])
        if hyperband.stops(own, self.reached):
            each.trial.stop("hyperband")

    def _note_reached(self, before: Run | None, now: Run) -> None:
        had = () if before is None else before.history
        self.reached.change(self._losses(had), self._losses(now.history))

    def _losses(self, history: Sequence[float]) -> list[float]:
        """Values of the metric so that less is better."""
        return [self.metric.sign * value for value in history]

    def _lose(self, each: RunningTrial) -> None:
        each.lost = True
        each.trial.kill()
        self.observer.say(
            f"run {each.run.number + 1} was given to another worker while this one was away; "
            "what it found here does not count"
        )

    def _end(self, each: RunningTrial, ended: Outcome) -> None:
        each.trial.close()
        self.active.remove(each)
        self.concurrency.ended(each.slot)
        if each.lost:
            return
        if ended.verdict:
            self.observer.say(f"run {each.run.number + 1}: {ended.verdict}")
        status = ended.status
        if status == RunStatus.INTERRUPTED and ended.stopped_by == "hyperband":
            status = RunStatus.STOPPED
        self._finish(each.run, status, ended.stopped_by, began=each.began, active=each)
        if ended.disk:
            self._meet_full_disk(each.run, ended.stopped_by)
        elif status in RANKED:
            self.disk.relief(each.run.number)

    def _finish(
        self,
        run: Run,
        status: RunStatus,
        note: str,
        *,
        began: float,
        active: RunningTrial | None = None,
    ) -> None:
        folder = self.folder.run(run.number)
        if status in FAULTS:
            shown = RunStatus.FAILED if status == RunStatus.DIED else status
            with suppress(DiskError, RunFolderError):
                folder.write_end(shown, note)
        score = score_of(folder, status, self.metric)
        if score is None and active is not None:  # its rows cannot be read now; we heard them
            score = self.metric.best(active.history.values())
        guess = score_of_guess(self.metric, folder.read_summary())
        seconds = time.monotonic() - began
        try:
            self.store.finish(
                run.last.id, status, score=score, seconds=seconds, note=note, guess=guess
            )
        except TrialLostError:
            if active is not None:
                self._lose(active)
            return
        done = Trial(
            run.last.id, run.number, run.values, status, run.last.owner,
            score=score, seconds=seconds, note=note, guess=guess,
        )  # fmt: skip
        self.ends[run.number] = status
        self.observer.ended(run, done)

    def _beat(self) -> None:
        """Tell the ledger every now and then that we live, and have what it gave us."""
        while not self.over.wait(self.store.lease / 6):
            # A database that is away for a moment is met again at the next beat.
            with suppress(Exception):
                self.store.beat(sorted(self.store.held.copy()))
