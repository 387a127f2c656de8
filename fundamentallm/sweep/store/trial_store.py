"""Trials of one Optuna study: reads only changes, and writes each change in one transaction.

Optuna reads first and then writes; between the two, another worker may write or the connection may
break. Here every write is one transaction. It holds the row that it depends on, and fails if
another worker was faster. So it needs no lock outside the database. If an answer is lost, the next
call sees whether the transaction took place.

Every query finds its rows by an index, and none reads a finished trial twice. So a run takes a
worker as long after 10,000 runs as after ten.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import TrialState
from sqlalchemy import orm

from fundamentallm.sweep.store.check_study import reading
from fundamentallm.sweep.store.optuna_tables import (
    ATTRIBUTES,
    BEATS,
    PARAMS,
    SCORES,
    STEPS,
    STUDIES,
    STUDY_ATTRIBUTES,
    TRIALS,
    StoredTrial,
    Trial,
    stored_score,
    stored_step,
    value_of,
)

MOST_IDS = 500
"""Ids in one query."""
PAUSED = "paused"
"""Attribute of a study in which no trial may start."""


class TrialStore:
    """Trials of a study: the state of the last read, and all methods that change them."""

    def __init__(self, storage: optuna.storages.RDBStorage, study_id: int) -> None:
        """Note the study; the first call reads it."""
        self.engine, self.study_id = storage.engine, study_id
        self.unfinished: dict[int, StoredTrial] = {}
        """Running and waiting trials by id, as of the last `changed`."""
        self.newest = StoredTrial(-1, -1, TrialState.COMPLETE)

    def changed(self) -> list[StoredTrial]:
        """Read trials that may have changed since the last call: unfinished and new ones.

        Finished trials never change, so 10,000 of them cost nothing here.
        """
        with reading(), self.engine.connect() as connection:
            trials = [
                *self._read(connection, TRIALS.c.trial_id.in_(sorted(self.unfinished))),
                *self._read(connection, self._is_newer()),
            ]
        for trial in trials:
            self.newest = max(self.newest, trial, key=lambda each: each.id)
            self.unfinished[trial.id] = trial
            if trial.state.is_finished():
                del self.unfinished[trial.id]
        return trials

    def is_paused(self) -> bool:
        """Return whether no trial may start now."""
        query = sqlalchemy.select(STUDY_ATTRIBUTES.c.value_json).where(
            STUDY_ATTRIBUTES.c.study_id == self.study_id, STUDY_ATTRIBUTES.c.key == PAUSED
        )
        with reading(), self.engine.connect() as connection:
            return connection.scalar(query) == "true"

    def _is_newer(self) -> sqlalchemy.ColumnElement[bool]:
        own = TRIALS.c.study_id == self.study_id
        return sqlalchemy.and_(own, TRIALS.c.trial_id > self.newest.id)

    def _read(
        self, connection: sqlalchemy.Connection, which: sqlalchemy.ColumnElement[bool]
    ) -> list[StoredTrial]:
        query = sqlalchemy.select(TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state)
        query = query.where(which).order_by(TRIALS.c.trial_id)
        rows = connection.execute(query).all()
        trials = {row.trial_id: StoredTrial(row.trial_id, row.number, row.state) for row in rows}
        ids = list(trials)
        for start in range(0, len(ids), MOST_IDS):
            chunk = ids[start : start + MOST_IDS]
            own = sqlalchemy.select(ATTRIBUTES).where(ATTRIBUTES.c.trial_id.in_(chunk))
            for row in connection.execute(own):
                trials[row.trial_id].attributes[row.key] = json.loads(row.value_json)
            logged = sqlalchemy.select(STEPS).where(STEPS.c.trial_id.in_(chunk))
            for row in connection.execute(logged):
                trials[row.trial_id].history[row.step] = value_of(row)
        return list(trials.values())

    def create(
        self,
        attributes: Mapping[str, Any],
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        state: TrialState = TrialState.RUNNING,
    ) -> bool:
        """Create a trial; return False if `newest` is outdated.

        A running one gets its first heartbeat; a waiting one has no worker yet.
        """
        with self._transaction() as session:
            # Other workers that create a trial wait here, even for a connection that is lost.
            own = STUDIES.c.study_id == self.study_id
            session.execute(STUDIES.update().where(own).values(study_name=STUDIES.c.study_name))
            if session.scalar(sqlalchemy.select(sqlalchemy.exists().where(self._is_newer()))):
                return False
            trial = Trial(
                study_id=self.study_id,
                number=self.newest.number + 1,  # Optuna would count all trials of the study
                state=state,
                datetime_start=datetime.datetime.now() if state == TrialState.RUNNING else None,
            )
            session.add(trial)
            session.flush()
            rows = [
                {
                    "trial_id": trial.trial_id,
                    "param_name": name,
                    "param_value": distributions[name].to_internal_repr(value),
                    "distribution_json": distribution_to_json(distributions[name]),
                }
                for name, value in params.items()
            ]
            if rows:
                session.execute(PARAMS.insert(), rows)
            for key, value in attributes.items():
                self._set_attribute(session, trial.trial_id, key, value)
            if state == TrialState.RUNNING:
                session.execute(BEATS.insert(), {"trial_id": trial.trial_id})
            return True

    def start(self, trial_id: int, owner: str) -> bool:
        """Take a waiting trial; return False if another worker has it."""
        with self._transaction() as session:
            if not self._hold(session, trial_id, TrialState.WAITING, TrialState.RUNNING):
                return False
            self._set_attribute(session, trial_id, "owner", owner)
            self._replace(session, BEATS, {"trial_id": trial_id}, {})
            trial: Any = session.get(Trial, trial_id)
            trial.datetime_start = datetime.datetime.now()
            return True

    def request_stop(self, trial_id: int) -> bool:
        """Mark a running or waiting trial to be stopped; return False if it has ended."""
        with self._transaction() as session:
            states = (TrialState.RUNNING, TrialState.WAITING)
            if not any(self._hold(session, trial_id, state, state) for state in states):
                return False
            self._set_attribute(session, trial_id, "stop", True)
            return True

    def report(self, trial_id: int, values: Mapping[int, float]) -> bool:
        """Store values by step; return False if the trial has ended."""
        with self._transaction() as session:
            if not self._hold(session, trial_id):
                return False
            steps = list(values)
            for start in range(0, len(steps), MOST_IDS):
                chunk = steps[start : start + MOST_IDS]
                same = STEPS.c.trial_id == trial_id, STEPS.c.step.in_(chunk)
                session.execute(STEPS.delete().where(*same))
            rows = [{"trial_id": trial_id} | stored_step(s, v) for s, v in values.items()]
            if rows:
                session.execute(STEPS.insert(), rows)
            return True

    def finish(
        self,
        trial_id: int,
        state: TrialState,
        *,
        result: Mapping[str, Any] | None = None,
        value: float | None = None,
        heartbeat: object = None,
    ) -> bool:
        """Finish a running trial; return False if it has ended, or its heartbeat changed."""
        with self._transaction() as session:
            if not self._hold(session, trial_id):
                return False
            beat = sqlalchemy.select(BEATS.c.heartbeat).where(BEATS.c.trial_id == trial_id)
            if heartbeat is not None and session.scalar(beat) != heartbeat:
                return False
            if result is not None:
                self._set_attribute(session, trial_id, "result", dict(result))
            if value is not None:
                key = {"trial_id": trial_id, "objective": 0}
                self._replace(session, SCORES, key, stored_score(value))
            trial: Any = session.get(Trial, trial_id)
            trial.state, trial.datetime_complete = state, datetime.datetime.now()
            # `Heartbeats.stale` reads all heartbeats, and this one is no longer needed.
            session.execute(BEATS.delete().where(BEATS.c.trial_id == trial_id))
            return True

    def result(self, trial_id: int) -> Any:
        """Return the stored result of a trial; None if it has none."""
        query = sqlalchemy.select(ATTRIBUTES.c.value_json).where(
            ATTRIBUTES.c.trial_id == trial_id, ATTRIBUTES.c.key == "result"
        )
        with reading(), self.engine.connect() as connection:
            found = connection.scalar(query)
            return None if found is None else json.loads(found)

    @contextmanager
    def _transaction(self) -> Iterator[orm.Session]:
        """Yield a session whose changes are committed together if nothing is raised."""
        with reading(), orm.sessionmaker(self.engine).begin() as session:
            yield session

    def _hold(
        self,
        session: orm.Session,
        trial_id: int,
        state: TrialState = TrialState.RUNNING,
        new: TrialState = TrialState.RUNNING,
    ) -> bool:
        """Lock a trial until the session ends; return False if it is not in this state.

        It is a write, and the first of its transaction: SQLite has no other way to lock.
        """
        found = TRIALS.update().where(TRIALS.c.trial_id == trial_id, TRIALS.c.state == state)
        held = session.execute(found.values(state=new))
        return bool(held.rowcount)  # pyright: ignore[reportAttributeAccessIssue]

    def _set_attribute(self, session: orm.Session, trial_id: int, key: str, value: Any) -> None:
        row = {"trial_id": trial_id, "key": key}
        self._replace(session, ATTRIBUTES, row, {"value_json": json.dumps(value)})

    def _replace(
        self,
        session: orm.Session,
        table: sqlalchemy.Table,
        key: Mapping[str, Any],
        content: Mapping[str, Any],
    ) -> None:
        """Replace the row with this key; its trial is locked."""
        same = [table.c[name] == value for name, value in key.items()]
        session.execute(table.delete().where(*same))
        session.execute(table.insert(), {**key, **content})
