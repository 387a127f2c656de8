"""Runs of a sweep in Optuna's storage, safe for many workers on one or many machines.

Every trial of a run is a trial of one Optuna study, so `optuna-dashboard` shows the sweep. A worker
claims a run in one transaction. It creates the trial, names its owner and writes its first
heartbeat. It succeeds only if no other trial was created since the worker's last read. So no run is
handed out twice, none too many, and a worker that is killed at any moment is noticed. A lock spares
workers from choosing values at the same time; nothing depends on it. A worker that did not respond
for a lease has lost its run: its later reports are refused.
"""

from __future__ import annotations

import math
import os
import socket
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import optuna

from optuna.trial import TrialState

from fundamentallm.files.atomic import writing
from fundamentallm.files.held_folder import HeldFolder
from fundamentallm.status import FINISHED, RunStatus
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.search.base import Values
from fundamentallm.sweep.store.check_study import reading, to_trial
from fundamentallm.sweep.store.database import Database, retried
from fundamentallm.sweep.store.definition import SweepDefinition
from fundamentallm.sweep.store.heartbeats import Heartbeats
from fundamentallm.sweep.store.optuna_tables import StoredTrial, index_by_study
from fundamentallm.sweep.store.optuna_trials import to_optuna
from fundamentallm.sweep.store.records import Run, RunIndex, Trial
from fundamentallm.sweep.store.stored_values import ValueCheck
from fundamentallm.sweep.store.trial_store import PAUSED, TrialStore

optuna.logging.set_verbosity(optuna.logging.ERROR)


class TrialLostError(Exception):
    """The run was given to another worker; reports of this trial no longer count."""


class RunStore:
    """Runs of one sweep, shared by all of its workers."""

    def __init__(
        self,
        url: str,
        name: str,
        folder: Path,
        *,
        lease: float,
        goal: str,
        wait: float = 0.0,
        notify: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Open the storage, and create the study if it is missing.

        Args:
            url: Address of the database: `sqlite:///` or `postgresql://`.
            name: Name of the sweep and its study.
            folder: Folder of the sweep on this machine.
            lease: Seconds without a heartbeat after which a worker has lost its runs.
            goal: `minimize` or `maximize`.
            wait: Timeout in seconds for a server that is down.
            notify: Receives a message when the wait starts and ends.

        Raises:
            SweepError: The database cannot be used.
        """
        self.lease = lease
        with writing(folder):
            self.held_folder = HeldFolder(folder)
        self.database = Database(url, self.held_folder)
        # A file that cannot be opened now will not open later either.
        self.database.set_timeout(0.0 if self.is_local else wait, notify)
        direction = optuna.study.StudyDirection[goal.upper()]
        self.worst = math.inf if goal == "minimize" else -math.inf
        try:
            with self.database.errors():
                self.study = self.database.retry(lambda: self._open(name, direction))
        except BaseException:
            self.database.close()
            self.held_folder.close()
            raise
        self.study_id = self.storage.get_study_id_from_name(name)
        self.trials = TrialStore(self.storage, self.study_id)
        self.index = RunIndex()
        self.check_values: Callable[[object], None] = lambda values: None
        """Checks the values of every trial, once the sweep is defined."""
        self.heartbeats = Heartbeats(self.storage, self.study_id, lease)
        self.claimed: set[int] = set()
        """Ids of the trials that this worker has claimed and not finished."""
        self.host = socket.gethostname()
        self.owner = f"{self.host}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        with writing(folder / "workers"):
            (folder / "workers").mkdir(parents=True, exist_ok=True)
            self.worker_lock = filelock.FileLock(self._worker_lock_path(self.owner))
            self.worker_lock.acquire(blocking=False)

    def _open(self, name: str, direction: optuna.study.StudyDirection) -> optuna.Study:
        # Under the lock: two processes cannot create the tables at the same time.
        with self.database.lock(name):
            self.database.prepare()
            self.storage = self.database.open_storage()
            index_by_study(self.storage.engine)
            with reading():
                return optuna.create_study(
                    storage=self.storage, study_name=name, direction=direction, load_if_exists=True
                )

    @property
    def is_local(self) -> bool:
        """Return whether the storage is a file on this machine, and not a server."""
        return self.database.is_local

    def set_timeout(
        self,
        seconds: float,
        notify: Callable[[str], None],
        *,
        is_cancelled: Callable[[], bool],
    ) -> None:
        """Set how long to wait for a storage that is unavailable, as in `Database.set_timeout`."""
        self.database.set_timeout(seconds, notify, is_cancelled=is_cancelled)

    def close(self) -> None:
        """Close the storage, and leave word that this worker is gone."""
        self.worker_lock.release()
        if self.claimed:  # their ends could not be stored: the lock file shows that we are gone
            with suppress(OSError):
                self._worker_lock_path(self.owner).touch()
        else:
            self._worker_lock_path(self.owner).unlink(missing_ok=True)
        self.storage.remove_session()
        self.database.close()
        self.held_folder.close()

    @retried
    def redefine(self, definition: SweepDefinition) -> None:
        """Replace the stored definition of the sweep."""
        self._write_definition(definition)

    def _write_definition(self, definition: SweepDefinition) -> None:
        self.study.set_user_attr("sweep", definition.to_stored())

    def set_lease(self, seconds: float) -> None:
        """Use the lease that the sweep was created with, as its other workers do."""
        self.lease = self.heartbeats.lease = seconds

    @retried
    def define(self, definition: SweepDefinition) -> SweepDefinition:
        """Store the definition unless one is stored; return the stored one.

        Raises:
            SweepError: The storage has invalid content.
        """
        with self.database.lock(self.study.study_name):
            with reading():
                stored = self.study.user_attrs.get("sweep")
                known = SweepDefinition.from_stored(stored) if stored else definition
            if not stored:
                self._write_definition(definition)
            self.check_values = ValueCheck(known.sweep.parameters)
            return known

    @retried
    def runs(self) -> RunIndex:
        """Return all runs in order; each call updates the same index."""
        return self._runs()

    def _runs(self) -> RunIndex:
        self.index.update(_to_trials(self.trials.changed(), self.check_values))
        return self.index

    def claim(
        self,
        *,
        next_values: Callable[[int, RunIndex], Values | None],
        retries: int,
        redo: Iterable[int] = (),
        parameters: Sequence[Parameter],
    ) -> Run | None:
        """Claim an unfinished run or a new one for this worker; its new trial is `last`.

        Args:
            next_values: Returns the values of a new run; None if the sweep needs no more.
            retries: How often a run is retried that failed by an error of its own.
            redo: Numbers of finished runs to run again.
            parameters: Parameters of the sweep, to store values by.

        Returns:
            None if there is nothing to do now, or the sweep is paused; other workers may still
            leave runs behind.

        Raises:
            InterruptedError: Another worker holds the sweep's lock, and the wait was cancelled.
            DisplacedError: The sweep was moved or removed since it was opened.
        """
        run = self._claim(next_values, retries, redo, parameters)
        if run is not None:  # not earlier: a lost connection repeats the claim
            self.claimed.add(run.last.id)
        return run

    @retried
    def _claim(
        self,
        next_values: Callable[[int, RunIndex], Values | None],
        retries: int,
        redo: Iterable[int],
        parameters: Sequence[Parameter],
    ) -> Run | None:
        with self.database.lock(self.study.study_name):
            while True:
                runs = self._reap()
                # Created by a claim whose answer was lost with the connection.
                ours = [
                    run for run in runs.with_status(RunStatus.RUNNING) if self._is_new(run.last)
                ]
                if ours:
                    return ours[0]
                if self.trials.is_paused():
                    return None
                waiting = runs.with_status(RunStatus.WAITING)
                left = runs.next_to_retry(retries)
                if left is None:
                    to_redo = (runs.numbered(number) for number in redo)
                    left = next((run for run in to_redo if run.is_finished), None)
                if waiting:  # picked by hand, or of an older version that was killed here
                    self.trials.start(waiting[0].last.id, self.owner)
                elif left is not None:
                    # Its worker was gone before it saw the request; the next one stops the run.
                    is_asked = left.last.stop_requested and not left.is_finished
                    self._create(left.number, left.values, parameters, stop=is_asked)
                elif (values := next_values(len(runs), runs)) is not None:
                    self._create(len(runs), values, parameters)
                else:
                    return None

    @retried
    def enqueue(
        self, values: Values, *, parameters: Sequence[Parameter], limit: int | None
    ) -> Run | None:
        """Return the run with these values; without one, create it for the next free worker.

        Args:
            values: Value of every parameter.
            parameters: Parameters of the sweep, to store values by.
            limit: Most runs of the sweep; None for no limit.

        Returns:
            None if there is no such run, and the sweep has all its runs.
        """
        with self.database.lock(self.study.study_name):
            while (run := (runs := self._runs()).with_values(values)) is None:
                if limit is not None and len(runs) >= limit:
                    return None
                self._create(len(runs), values, parameters, TrialState.WAITING)
            return run

    @retried
    def request_stop(self, trial_id: int) -> bool:
        """Ask the worker of a running or waiting trial to stop it; return False if it has ended."""
        return self.trials.request_stop(trial_id)

    @retried
    def is_paused(self) -> bool:
        """Return whether no run may start now."""
        return self.trials.is_paused()

    @retried
    def set_paused(self, *, is_paused: bool) -> None:
        """Keep every worker from starting runs, or allow it again; no claim is in progress."""
        with self.database.lock(self.study.study_name), reading():
            self.study.set_user_attr(PAUSED, is_paused)

    def _is_new(self, trial: Trial) -> bool:
        return trial.owner == self.owner and trial.id not in self.claimed

    def beat(self, trial_ids: Sequence[int]) -> None:
        """Renew the heartbeats of these trials, and read those of other workers."""
        self.heartbeats.beat(trial_ids)
        self.heartbeats.stale()

    @retried
    def report(self, trial_id: int, values: Mapping[int, float]) -> None:
        """Store values of the metric by step: a new one, or many of the trials it resumes.

        Raises:
            TrialLostError: The run was given to another worker.
        """
        if not self.trials.report(trial_id, values):
            raise TrialLostError

    @retried
    def finish(
        self,
        trial_id: int,
        status: RunStatus,
        *,
        score: float | None,
        seconds: float,
        note: str,
        guess: float | None = None,
    ) -> None:
        """Store the end of a trial; it never changes after this.

        Raises:
            TrialLostError: The run was given to another worker.
        """
        result = {"status": status, "score": score, "seconds": seconds, "note": note}
        result["guess"] = guess
        try:
            # It may have been stored by a call whose answer was lost with the connection.
            if not self._finish_trial(trial_id, result) and self.trials.result(trial_id) != result:
                raise TrialLostError
        except TrialLostError:
            self.claimed.discard(trial_id)
            raise
        self.claimed.discard(trial_id)

    def _finish_trial(self, trial_id: int, result: Mapping[str, Any]) -> bool:
        """Finish a running trial with its result; return False if it has ended."""
        status, score = result["status"], result["score"]
        if status not in FINISHED:
            return self.trials.finish(trial_id, TrialState.FAIL, result=result)
        if score is None:  # the metric was never logged
            score = self.worst
        state = TrialState.PRUNED if status == RunStatus.STOPPED else TrialState.COMPLETE
        return self.trials.finish(trial_id, state, result=result, value=score)

    def _reap(self) -> RunIndex:
        """End the trials of workers that are gone; return all runs after that."""
        stale = self.heartbeats.stale()
        runs, reaped = self._runs(), False
        for trial_id, trial in self.trials.unfinished.items():
            owner = str(trial.attributes.get("owner"))
            if trial.state != TrialState.RUNNING or owner == self.owner:
                continue
            is_dead = self._is_dead(owner)
            if not (is_dead or trial_id in stale):
                continue
            result, reaped = trial.attributes.get("result"), True
            if result is not None:  # from an older version that was killed while storing it
                self._finish_trial(trial_id, result)
            else:
                beat = None if is_dead else stale[trial_id]
                self.trials.finish(trial_id, TrialState.FAIL, heartbeat=beat)
        return self._runs() if reaped else runs

    def _is_dead(self, owner: str) -> bool:
        """Return whether a worker of this machine is gone: a living one holds its lock file."""
        if owner.partition(":")[0] != self.host or not self._worker_lock_path(owner).exists():
            return False
        try:
            with filelock.FileLock(self._worker_lock_path(owner), blocking=False):
                return True
        except filelock.Timeout:
            return False

    def _worker_lock_path(self, owner: str) -> Path:
        return self.held_folder.lasting_path("workers") / f"{owner.rpartition(':')[2]}.lock"

    def _create(
        self,
        run: int,
        values: Values,
        parameters: Sequence[Parameter],
        state: TrialState = TrialState.RUNNING,
        *,
        stop: bool = False,
    ) -> None:
        """Create a trial, by default of this worker; not if another was since the last read."""
        params, distributions = to_optuna(values, parameters)
        owner = self.owner if state == TrialState.RUNNING else ""
        attributes: dict[str, Any] = {"run": run, "values": dict(values), "owner": owner}
        if stop:
            attributes["stop"] = True
        self.trials.create(attributes, params, distributions, state)


def read_study(
    url: str,
    name: str,
    *,
    wait: float = 0.0,
    notify: Callable[[str], None] = lambda line: None,
) -> tuple[SweepDefinition, RunIndex]:
    """Read the definition of sweep `name` and all its runs; nothing is written.

    `wait` and `notify` are as in `RunStore`.

    Raises:
        SweepError: The storage cannot be used, or has no such sweep.
    """
    database = Database(url)
    database.set_timeout(0.0 if database.is_local else wait, notify)

    @reading()
    def read() -> tuple[dict[str, Any], list[StoredTrial]]:
        storage = database.open_storage()
        studies = {study.study_name: study for study in storage.get_all_studies()}
        if name not in studies:
            return studies, []
        return studies, TrialStore(storage, storage.get_study_id_from_name(name)).changed()

    try:
        with database.errors():
            studies, trials = database.retry(read)
    finally:
        database.close()
    study = studies.get(name)
    if study is None or "sweep" not in study.user_attrs:
        others = ", ".join(sorted(map(str, studies))[:5]) or "none"
        raise SweepError(f"storage {database.shown} has no sweep {name}; it has: {others}")
    with database.errors(), reading():
        definition = SweepDefinition.from_stored(study.user_attrs["sweep"])
        check = ValueCheck(definition.sweep.parameters)
        return definition, RunIndex.of(_to_trials(trials, check))


def _to_trials(trials: Sequence[StoredTrial], check: Callable[[object], None]) -> Iterator[Trial]:
    for trial in trials:
        if "run" in trial.attributes:  # added by hand otherwise
            yield to_trial(trial, check)
