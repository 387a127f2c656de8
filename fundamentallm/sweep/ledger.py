"""Who does which run: Optuna's storage, made safe for many workers on one or many machines.

Every attempt at a run is a trial of one study, so `optuna-dashboard` shows the sweep. What Optuna
leaves open is closed here. Runs are claimed one at a time under a lock, so none is handed out twice
and none too many. A trial is given its first heartbeat before it counts as running, so one whose
worker was killed at any moment is noticed. A worker that was away for longer than its lease has
lost its run: Optuna refuses what it says of it.
"""

from __future__ import annotations

import math
import os
import socket
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import optuna

from optuna.trial import FrozenTrial, TrialState

from fundamentallm.sweep.as_optuna import as_optuna
from fundamentallm.sweep.database import Database, patient
from fundamentallm.sweep.findings import SweepError
from fundamentallm.sweep.heartbeats import Heartbeats
from fundamentallm.sweep.parameters import Parameter
from fundamentallm.sweep.records import FAILED, FINISHED, Attempt, Run, runs_of
from fundamentallm.sweep.search import Values

optuna.logging.set_verbosity(optuna.logging.ERROR)


class LostError(Exception):
    """The attempt was given to another worker; nothing that is said of it counts any more."""


class Ledger:
    """The runs of one sweep, as all of its workers see them."""

    def __init__(self, url: str, name: str, folder: Path, *, lease: float, goal: str) -> None:
        """Open the storage, and make the study if it is not there.

        Args:
            url: Of the database; `sqlite:///` or `postgresql://`.
            name: Of the sweep, and of its study.
            folder: The sweep's, on this machine.
            lease: Seconds without a heartbeat after which a worker has lost its runs.
            goal: `minimize` or `maximize`.

        Raises:
            SweepError: The database cannot be used.
        """
        self.lease, self.folder = lease, folder
        self.database = Database(url, folder)
        direction = optuna.study.StudyDirection[goal.upper()]
        # Under the lock: two that make the tables at once are in each other's way.
        with self.database.errors(), self.database.lock(name):
            self.database.prepare()
            self.uncached = optuna.storages.RDBStorage(
                self.database.url, engine_kwargs=self.database.engine_arguments
            )
            # Finished trials do not change: kept here, 300 are read in 4 ms, and else in 75.
            self.storage = optuna.storages.get_storage(self.uncached)
            study = optuna.create_study(
                storage=self.storage, study_name=name, direction=direction, load_if_exists=True
            )
        self.study = study
        self.study_id = study._study_id
        self.heartbeats = Heartbeats(self.uncached, self.study_id, lease)
        self.held: set[int] = set()
        """Attempts that `claim` has given to this worker, and `finish` has not ended."""
        self.host = socket.gethostname()
        self.owner = f"{self.host}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        (folder / "workers").mkdir(parents=True, exist_ok=True)
        self.alive = filelock.FileLock(self._life(self.owner))
        self.alive.acquire(blocking=False)

    def close(self) -> None:
        """Let go of the storage, and say that this worker is gone."""
        self.alive.release()
        if self.held:  # the storage was away when they ended; who comes next sees that we are gone
            with suppress(OSError):
                self._life(self.owner).touch()
        else:
            self._life(self.owner).unlink(missing_ok=True)
        self.uncached.remove_session()
        self.uncached.engine.dispose()
        self.database.close()

    @property
    def facts(self) -> dict[str, Any]:
        """What the sweep's maker wrote down for every worker."""
        return self.study.user_attrs.get("sweep", {})

    @facts.setter
    def facts(self, facts: Mapping[str, Any]) -> None:
        self.study.set_user_attr("sweep", dict(facts))

    def keep_lease(self, seconds: float) -> None:
        """Take the lease of the sweep as it was made, which others go by."""
        self.lease = self.heartbeats.lease = seconds

    @patient
    def begin(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Write down what the sweep is, unless another worker has; what stands there then."""
        with self.database.lock(self.study.study_name):
            if not self.facts:
                self.facts = facts
            return self.facts

    @patient
    def runs(self) -> list[Run]:
        """All runs, in order."""
        return self._runs()

    def _runs(self) -> list[Run]:
        trials = self.storage.get_all_trials(self.study_id, deepcopy=False)
        return runs_of(list(_attempts(trials)))

    @patient
    def claim(
        self,
        *,
        next_values: Callable[[int, Sequence[Run]], Values | None],
        again: Callable[[Run], bool],
        redo: Callable[[Run], bool] = lambda run: False,
        parameters: Sequence[Parameter],
    ) -> Run | None:
        """A run for this worker, one that was left unfinished or the next; its attempt is `last`.

        Args:
            next_values: Chooses the values of a new run; None if the sweep has enough.
            again: Whether an unfinished run is worth another attempt.
            redo: Whether a finished run is to be run again.
            parameters: The sweep's, to store values by.

        Returns:
            None if there is nothing to do now; runs of other workers may still be left behind.

        Raises:
            InterruptedError: Others hold the sweep's lock, and nobody wants to wait.
        """
        with self.database.lock(self.study.study_name) as check_held:
            self._reap()
            runs = self._runs()
            waiting = [run.last.id for run in runs if run.last.status == "waiting"]
            # Given to us, and then the database went away before it could say so.
            waiting += [
                run.last.id
                for run in runs
                if run.last.owner == self.owner
                and run.last.status == "running"
                and run.last.id not in self.held
            ]
            open_runs = [run for run in runs if run.last.status in ("lost", "interrupted")]
            open_runs += [run for run in runs if run.last.status in FAILED]
            open_runs = [run for run in open_runs if again(run)]
            open_runs += [run for run in runs if run.is_finished and redo(run)]
            if waiting:  # its worker was killed in the middle of this method
                chosen = waiting[0]
            elif open_runs:
                check_held()
                chosen = self._create(open_runs[0].number, open_runs[0].values, parameters)
            elif (values := next_values(len(runs), runs)) is not None:
                check_held()  # choosing may have taken seconds
                chosen = self._create(len(runs), values, parameters)
            else:
                return None
            self.storage.set_trial_user_attr(chosen, "owner", self.owner)
            self.heartbeats.beat([chosen])
            if self.storage.get_trial(chosen).state == TrialState.WAITING:
                self.storage.set_trial_state_values(chosen, TrialState.RUNNING)
            number = self.storage.get_trial(chosen).user_attrs["run"]
            found = next(run for run in self._runs() if run.number == number)
            self.held.add(chosen)
            return found

    def beat(self, attempts: Sequence[int]) -> None:
        """Say that this worker lives, and with it these attempts; and listen for the others."""
        self.heartbeats.beat(attempts)
        self.heartbeats.stale()

    @patient
    def report(self, attempt: int, values: Mapping[int, float]) -> None:
        """Note a value of the metric, by its step; or many, of attempts that this one goes on from.

        Raises:
            LostError: The attempt was given away.
        """
        with _refusals():
            if len(values) > 1:  # in one write: each by itself would wait for the disk
                self.storage.set_trial_user_attr(attempt, "past", dict(values))
                return
            for step, value in values.items():
                self.storage.set_trial_intermediate_value(attempt, step, value)

    @patient
    def finish(
        self,
        attempt: int,
        status: str,
        *,
        score: float | None,
        seconds: float,
        note: str,
        guess: float | None = None,
    ) -> None:
        """Note how an attempt ended; after this it is as if carved in stone.

        Raises:
            LostError: The attempt was given away.
        """
        result = {"status": status, "score": score, "seconds": seconds, "note": note}
        result["guess"] = guess
        trial = self.storage.get_trial(attempt)
        try:
            # Else it was written, and the database went away before it could say so.
            if not (trial.state.is_finished() and trial.user_attrs.get("result") == result):
                with _refusals():
                    self.storage.set_trial_user_attr(attempt, "result", result)
                    self._settle(attempt, result)
        except LostError:
            self.held.discard(attempt)
            raise
        self.held.discard(attempt)

    def _settle(self, attempt: int, result: Mapping[str, Any]) -> None:
        """Give a trial the state that its result means."""
        status, score = result["status"], result["score"]
        if status not in FINISHED:
            self.storage.set_trial_state_values(attempt, TrialState.FAIL)
            return
        if score is None:  # the metric was never logged
            worse = math.inf if self.study.direction.name == "MINIMIZE" else -math.inf
            score = worse
        state = TrialState.PRUNED if status == "stopped" else TrialState.COMPLETE
        self.storage.set_trial_state_values(attempt, state, [score])

    def _reap(self) -> None:
        """Take the runs of workers that are gone from them. Call it under the lock."""
        stale = self.heartbeats.stale()
        for trial in self.storage.get_all_trials(
            self.study_id, deepcopy=False, states=(TrialState.RUNNING,)
        ):
            owner = str(trial.user_attrs.get("owner"))
            if owner == self.owner or not (trial._trial_id in stale or self._is_dead(owner)):
                continue
            result = trial.user_attrs.get("result")
            try:
                if result is not None:  # killed while it was saying so
                    self._settle(trial._trial_id, result)
                else:
                    self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            except optuna.exceptions.UpdateFinishedTrialError:
                pass  # it has just ended after all

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
        return self.folder / "workers" / f"{owner.rpartition(':')[2]}.lock"

    def _create(self, run: int, values: Values, parameters: Sequence[Parameter]) -> int:
        params, distributions = as_optuna(values, parameters)
        template = optuna.trial.create_trial(
            state=TrialState.WAITING,
            params=params,
            distributions=distributions,
            user_attrs={"run": run, "values": dict(values)},
        )
        return self.storage.create_new_trial(self.study_id, template_trial=template)


def read_study(url: str, name: str, folder: Path) -> tuple[dict[str, Any], str, list[Run]]:
    """What the maker of sweep `name` wrote down, the metric's goal, and all runs; only looked at.

    Raises:
        SweepError: The storage cannot be used, or has no such sweep.
    """
    database = Database(url, folder)
    with database.errors():
        storage = optuna.storages.RDBStorage(database.url, engine_kwargs=database.engine_arguments)
        studies = {study.study_name: study for study in storage.get_all_studies()}
        study = studies.get(name)
        trials = [] if study is None else storage.get_all_trials(study._study_id, deepcopy=False)
        storage.engine.dispose()
    if study is None or "sweep" not in study.user_attrs:
        others = ", ".join(sorted(studies)[:5]) or "none"
        raise SweepError(f"{database.shown} has no sweep {name}; it has: {others}")
    facts, goal = study.user_attrs["sweep"], study.direction.name.lower()
    return facts, goal, runs_of(list(_attempts(trials)))


@contextmanager
def _refusals() -> Iterator[None]:
    """Optuna's word for a trial that has been given up, in ours."""
    try:
        yield
    except optuna.exceptions.UpdateFinishedTrialError as error:
        raise LostError(str(error)) from None


def _attempts(trials: Sequence[FrozenTrial]) -> Iterator[Attempt]:
    for trial in trials:
        if "run" in trial.user_attrs:  # not one that somebody added by hand
            yield _attempt(trial)


def _attempt(trial: FrozenTrial) -> Attempt:
    attributes = trial.user_attrs
    past = {int(step): value for step, value in attributes.get("past", {}).items()}
    history = past | trial.intermediate_values
    result: Mapping[str, Any] = attributes.get("result") or {}
    if not trial.state.is_finished():
        status, result = trial.state.name.lower(), {}
    elif trial.state == TrialState.FAIL and result.get("status") in (None, *FINISHED):
        status, result = "lost", {}
    else:
        status = result["status"]
    return Attempt(
        id=trial._trial_id,
        run=attributes["run"],
        values=attributes["values"],
        status=status,
        owner=str(attributes.get("owner", "")),
        score=result.get("score"),
        history=tuple(history[step] for step in sorted(history)),
        seconds=result.get("seconds", 0.0),
        note=result.get("note", ""),
        guess=result.get("guess"),
    )
