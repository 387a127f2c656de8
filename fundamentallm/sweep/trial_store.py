"""Optuna's trials of one study: read as they change, written so that nothing counts twice.

Optuna looks first and writes then, and between the two another worker, or a connection that drops,
may come. Here every write is one transaction that holds the row it depends on and takes place only
if nobody was quicker. So no lock outside the database need be trusted, nor any answer that was
lost on its way: who asks again sees whether the transaction took place.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna
import sqlalchemy
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import orm

from fundamentallm.sweep.stored import reading

TRIALS: sqlalchemy.Table = models.TrialModel.__table__
STUDIES: sqlalchemy.Table = models.StudyModel.__table__
BEATS: sqlalchemy.Table = models.TrialHeartbeatModel.__table__


class TrialStore:
    """The trials of a study, as this process last saw them, and the only way to change them."""

    def __init__(self, storage: optuna.storages.RDBStorage, study_id: int) -> None:
        """Nothing is read yet."""
        self.storage, self.study_id = storage, study_id
        self.unfinished: dict[int, FrozenTrial] = {}
        """Running and waiting trials by their ids, as of the last `changed`."""
        self.newest = -1

    def changed(self) -> list[FrozenTrial]:
        """Read what may have changed since the last call: trials that were unfinished, or are new.

        Finished trials never change, so that 10,000 of them cost nothing here.
        """
        with reading():
            known = set(self.unfinished)
            trials = self.storage._get_trials(self.study_id, None, known, self.newest)
        for trial in trials:
            self.newest = max(self.newest, trial._trial_id)
            self.unfinished[trial._trial_id] = trial
            if trial.state.is_finished():
                del self.unfinished[trial._trial_id]
        return trials

    def create(self, template: FrozenTrial) -> bool:
        """Make a trial with its first heartbeat; false if another was made since `changed`."""
        with self._session() as session:
            # Whoever makes a trial waits here, also for one whose connection is gone.
            own = STUDIES.c.study_id == self.study_id
            session.execute(STUDIES.update().where(own).values(study_name=STUDIES.c.study_name))
            newer = sqlalchemy.exists().where(
                TRIALS.c.study_id == self.study_id, TRIALS.c.trial_id > self.newest
            )
            if session.scalar(sqlalchemy.select(newer)):
                return False
            trial = self.storage._get_prepared_new_trial(self.study_id, template, session)
            session.add(models.TrialHeartbeatModel(trial_id=trial.trial_id))
            return True

    def start(self, trial_id: int, owner: str) -> bool:
        """Take a waiting trial; false if another worker has it."""
        with self._session() as session:
            if not self._hold(session, trial_id, TrialState.WAITING, TrialState.RUNNING):
                return False
            self._set_attribute(session, trial_id, "owner", owner)
            session.merge(models.TrialHeartbeatModel(trial_id=trial_id))
            return True

    def report(self, trial_id: int, values: Mapping[int, float]) -> bool:
        """Note values by their steps; false if the trial has ended.

        Many are noted in one piece: each by itself would take a query of its own.
        """
        with self._session() as session:
            if not self._hold(session, trial_id):
                return False
            if len(values) > 1:
                self._set_attribute(session, trial_id, "past", dict(values))
                return True
            for step, value in values.items():
                self.storage._set_trial_intermediate_value_without_commit(
                    session, trial_id, step, value
                )
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
        """End a running trial; false if it has ended, or was heard of since `heartbeat`."""
        with self._session() as session:
            if not self._hold(session, trial_id):
                return False
            beat = sqlalchemy.select(BEATS.c.heartbeat).where(BEATS.c.trial_id == trial_id)
            if heartbeat is not None and session.scalar(beat) != heartbeat:
                return False
            if result is not None:
                self._set_attribute(session, trial_id, "result", dict(result))
            trial = models.TrialModel.find_or_raise_by_id(trial_id, session)
            if value is not None:
                self.storage._set_trial_value_without_commit(session, trial, 0, value)
            trial.state, trial.datetime_complete = state, datetime.datetime.now()
            # Nobody listens any longer, and who looks for the silent reads them all.
            session.execute(BEATS.delete().where(BEATS.c.trial_id == trial_id))
            return True

    @contextmanager
    def _session(self) -> Iterator[orm.Session]:
        """A transaction, which takes place if nothing is raised."""
        with reading(), _create_scoped_session(self.storage.scoped_session) as session:
            yield session

    def _hold(
        self,
        session: orm.Session,
        trial_id: int,
        state: TrialState = TrialState.RUNNING,
        new: TrialState = TrialState.RUNNING,
    ) -> bool:
        """Let nobody else change a trial in this state until the session ends; false if in none.

        A write, and the first of its transaction: SQLite has no other way to hold anything.
        """
        found = TRIALS.update().where(TRIALS.c.trial_id == trial_id, TRIALS.c.state == state)
        held = session.execute(found.values(state=new))
        return bool(held.rowcount)  # pyright: ignore[reportAttributeAccessIssue]

    def _set_attribute(self, session: orm.Session, trial_id: int, key: str, value: Any) -> None:
        self.storage._set_trial_attr_without_commit(
            session, models.TrialUserAttributeModel, trial_id, key, value
        )
