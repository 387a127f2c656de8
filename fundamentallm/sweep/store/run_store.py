"""Who does which run: Optuna's storage, made safe for many workers on one or many machines.

Every attempt at a run is a trial of one study, so `optuna-dashboard` shows the sweep. What Optuna
leaves open is closed here. A run is claimed in one transaction, which makes the trial, names its
owner and gives it its first heartbeat, and takes place only if no other trial was made since this
worker looked: so none is handed out twice and none too many, and one whose worker was killed at any
moment is noticed. A lock spares workers the choice of values that another is choosing; nothing
depends on it. A worker that was away for longer than its lease has lost its run, and what it says
of it is refused.
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
from fundamentallm.sweep.store.check_study import attempt_of, reading
from fundamentallm.sweep.store.database import Database, patient
from fundamentallm.sweep.store.definition import SweepDefinition
from fundamentallm.sweep.store.heartbeats import Heartbeats
from fundamentallm.sweep.store.optuna_tables import StoredTrial, index_by_study
from fundamentallm.sweep.store.optuna_trials import to_optuna
from fundamentallm.sweep.store.records import Run, RunIndex, Trial
from fundamentallm.sweep.store.stored_values import ValueCheck
from fundamentallm.sweep.store.trial_store import TrialStore

optuna.logging.set_verbosity(optuna.logging.ERROR)


class TrialLostError(Exception):
    """The attempt was given to another worker; nothing that is said of it counts any more."""


class RunStore:
    """The runs of one sweep, as all of its workers see them."""

    def __init__(
        self,
        url: str,
        name: str,
        folder: Path,
        *,
        lease: float,
        goal: str,
        wait: float = 0.0,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Open the storage, and make the study if it is not there.

        Args:
            url: Of the database; `sqlite:///` or `postgresql://`.
            name: Of the sweep, and of its study.
            folder: The sweep's, on this machine.
            lease: Seconds without a heartbeat after which a worker has lost its runs.
            goal: `minimize` or `maximize`.
            wait: Seconds to wait for a server that is down.
            say: Told that it is.

        Raises:
            SweepError: The database cannot be used.
        """
        self.lease = lease
        with writing(folder):
            self.place = HeldFolder(folder)
        self.database = Database(url, self.place)
        # A file that cannot be opened now will not open later either.
        self.database.set_timeout(0.0 if self.is_local else wait, say)
        direction = optuna.study.StudyDirection[goal.upper()]
        self.worst = math.inf if goal == "minimize" else -math.inf
        try:
            with self.database.errors():
                self.study = self.database.insist(lambda: self._open(name, direction))
        except BaseException:
            self.database.close()
            self.place.close()
            raise
        self.study_id = self.storage.get_study_id_from_name(name)
        self.trials = TrialStore(self.storage, self.study_id)
        self.known = RunIndex()
        self.check_values: Callable[[object], None] = lambda values: None
        """Told the values of every attempt, once the sweep is known."""
        self.heartbeats = Heartbeats(self.storage, self.study_id, lease)
        self.held: set[int] = set()
        """Attempts that `claim` has given to this worker, and `finish` has not ended."""
        self.host = socket.gethostname()
        self.owner = f"{self.host}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        with writing(folder / "workers"):
            (folder / "workers").mkdir(parents=True, exist_ok=True)
            self.alive = filelock.FileLock(self._life(self.owner))
            self.alive.acquire(blocking=False)

    def _open(self, name: str, direction: optuna.study.StudyDirection) -> optuna.Study:
        # Under the lock: two that make the tables at once are in each other's way.
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
        """Let go of the storage, and say that this worker is gone."""
        self.alive.release()
        if self.held:  # the storage was away when they ended; who comes next sees that we are gone
            with suppress(OSError):
                self._life(self.owner).touch()
        else:
            self._life(self.owner).unlink(missing_ok=True)
        self.storage.remove_session()
        self.database.close()
        self.place.close()

    @patient
    def redefine(self, definition: SweepDefinition) -> None:
        """Store what the sweep is, in place of what is stored."""
        self._define(definition)

    def _define(self, definition: SweepDefinition) -> None:
        self.study.set_user_attr("sweep", definition.to_stored())

    def keep_lease(self, seconds: float) -> None:
        """Take the lease of the sweep as it was made, which others go by."""
        self.lease = self.heartbeats.lease = seconds

    @patient
    def begin(self, definition: SweepDefinition) -> SweepDefinition:
        """Store what the sweep is, unless another worker has; return what is stored now.

        Raises:
            SweepError: The storage holds what no sweep has written.
        """
        with self.database.lock(self.study.study_name):
            with reading():
                stored = self.study.user_attrs.get("sweep")
                known = SweepDefinition.from_stored(stored) if stored else definition
            if not stored:
                self._define(definition)
            self.check_values = ValueCheck(known.sweep.parameters)
            return known

    @patient
    def runs(self) -> RunIndex:
        """All runs, in order; each call brings the same up to date."""
        return self._runs()

    def _runs(self) -> RunIndex:
        self.known.take(_attempts(self.trials.changed(), self.check_values))
        return self.known

    def claim(
        self,
        *,
        next_values: Callable[[int, RunIndex], Values | None],
        retries: int,
        redo: Iterable[int] = (),
        parameters: Sequence[Parameter],
    ) -> Run | None:
        """A run for this worker, one that was left unfinished or the next; its attempt is `last`.

        Args:
            next_values: Chooses the values of a new run; None if the sweep has enough.
            retries: How often a run that failed by an error of its own is tried again.
            redo: Finished runs that are to be run again.
            parameters: The sweep's, to store values by.

        Returns:
            None if there is nothing to do now; runs of other workers may still be left behind.

        Raises:
            InterruptedError: Others hold the sweep's lock, and nobody wants to wait.
            DisplacedError: The sweep was moved or removed since it was opened.
        """
        run = self._claim(next_values, retries, redo, parameters)
        if run is not None:  # now only: until here, a connection that drops makes us ask again
            self.held.add(run.last.id)
        return run

    @patient
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
                # Given to us, and then the database went away before it could say so.
                ours = [run for run in runs.standing(RunStatus.RUNNING) if self._is_new(run.last)]
                if ours:
                    return ours[0]
                waiting = runs.standing(RunStatus.WAITING)
                left = runs.to_try_again(retries)
                if left is None:
                    to_redo = (runs.numbered(number) for number in redo)
                    left = next((run for run in to_redo if run.is_finished), None)
                if waiting:  # of an older version, which was killed in the middle of this method
                    self.trials.start(waiting[0].last.id, self.owner)
                elif left is not None:
                    self._create(left.number, left.values, parameters)
                elif (values := next_values(len(runs), runs)) is not None:
                    self._create(len(runs), values, parameters)
                else:
                    return None

    def _is_new(self, attempt: Trial) -> bool:
        return attempt.owner == self.owner and attempt.id not in self.held

    def beat(self, attempts: Sequence[int]) -> None:
        """Say that this worker lives, and with it these attempts; and listen for the others."""
        self.heartbeats.beat(attempts)
        self.heartbeats.stale()

    @patient
    def report(self, attempt: int, values: Mapping[int, float]) -> None:
        """Note a value of the metric, by its step; or many, of attempts that this one goes on from.

        Raises:
            TrialLostError: The attempt was given away.
        """
        if not self.trials.report(attempt, values):
            raise TrialLostError

    @patient
    def finish(
        self,
        attempt: int,
        status: RunStatus,
        *,
        score: float | None,
        seconds: float,
        note: str,
        guess: float | None = None,
    ) -> None:
        """Note how an attempt ended; after this it is as if carved in stone.

        Raises:
            TrialLostError: The attempt was given away.
        """
        result = {"status": status, "score": score, "seconds": seconds, "note": note}
        result["guess"] = guess
        try:
            # Else it was written, and the database went away before it could say so.
            if not self._settle(attempt, result) and self.trials.result(attempt) != result:
                raise TrialLostError
        except TrialLostError:
            self.held.discard(attempt)
            raise
        self.held.discard(attempt)

    def _settle(self, attempt: int, result: Mapping[str, Any]) -> bool:
        """End a running attempt as its result says; false if it has ended."""
        status, score = result["status"], result["score"]
        if status not in FINISHED:
            return self.trials.finish(attempt, TrialState.FAIL, result=result)
        if score is None:  # the metric was never logged
            score = self.worst
        state = TrialState.PRUNED if status == RunStatus.STOPPED else TrialState.COMPLETE
        return self.trials.finish(attempt, state, result=result, value=score)

    def _reap(self) -> RunIndex:
        """Take the runs of workers that are gone from them; all runs as they stand then."""
        stale = self.heartbeats.stale()
        runs, reaped = self._runs(), False
        for attempt, trial in self.trials.unfinished.items():
            owner = str(trial.attributes.get("owner"))
            if trial.state != TrialState.RUNNING or owner == self.owner:
                continue
            is_dead = self._is_dead(owner)
            if not (is_dead or attempt in stale):
                continue
            result, reaped = trial.attributes.get("result"), True
            if result is not None:  # of an older version, which was killed while it was saying so
                self._settle(attempt, result)
            else:
                heard = None if is_dead else stale[attempt]
                self.trials.finish(attempt, TrialState.FAIL, heartbeat=heard)
        return self._runs() if reaped else runs

    def _is_dead(self, owner: str) -> bool:
        """Whether a worker on this machine is gone: it held a lock for as long as it lived."""
        if owner.partition(":")[0] != self.host or not self._life(owner).exists():
            return False
        try:
            with filelock.FileLock(self._life(owner), blocking=False):
                return True
        except filelock.Timeout:
            return False

    def _life(self, owner: str) -> Path:
        return self.place.lasting_path("workers") / f"{owner.rpartition(':')[2]}.lock"

    def _create(self, run: int, values: Values, parameters: Sequence[Parameter]) -> None:
        """Make an attempt of ours, unless another worker has made one since the last look."""
        params, distributions = to_optuna(values, parameters)
        attributes = {"run": run, "values": dict(values), "owner": self.owner}
        self.trials.create(attributes, params, distributions)


def read_study(
    url: str,
    name: str,
    *,
    wait: float = 0.0,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[SweepDefinition, RunIndex]:
    """Read the definition of sweep `name` and all its runs; nothing is written.

    `wait` and `say` are as of a `RunStore`.

    Raises:
        SweepError: The storage cannot be used, or has no such sweep.
    """
    database = Database(url)
    database.set_timeout(0.0 if database.is_local else wait, say)

    @reading()
    def read() -> tuple[dict[str, Any], list[StoredTrial]]:
        storage = database.open_storage()
        studies = {study.study_name: study for study in storage.get_all_studies()}
        if name not in studies:
            return studies, []
        return studies, TrialStore(storage, storage.get_study_id_from_name(name)).changed()

    try:
        with database.errors():
            studies, trials = database.insist(read)
    finally:
        database.close()
    study = studies.get(name)
    if study is None or "sweep" not in study.user_attrs:
        others = ", ".join(sorted(map(str, studies))[:5]) or "none"
        raise SweepError(f"{database.shown} has no sweep {name}; it has: {others}")
    with database.errors(), reading():
        definition = SweepDefinition.from_stored(study.user_attrs["sweep"])
        check = ValueCheck(definition.sweep.parameters)
        return definition, RunIndex.of(_attempts(trials, check))


def _attempts(trials: Sequence[StoredTrial], check: Callable[[object], None]) -> Iterator[Trial]:
    for trial in trials:
        if "run" in trial.attributes:  # not one that somebody added by hand
            yield attempt_of(trial, check)
