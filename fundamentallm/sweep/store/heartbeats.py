"""Heartbeats of a sweep's workers: a worker is alive if its heartbeat changes.

A heartbeat is a time that a worker writes to the database. The clocks of two machines may differ,
and a clock may be set. So no times are compared: a heartbeat only has to change during a lease.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import optuna
import sqlalchemy
from optuna.trial import TrialState

from fundamentallm.sweep.store.check_study import reading
from fundamentallm.sweep.store.optuna_tables import BEATS, TRIALS


class Heartbeats:
    """Heartbeats of a study's trials, as this process sees them."""

    def __init__(self, storage: optuna.storages.RDBStorage, study_id: int, lease: float) -> None:
        """A heartbeat that did not change for `lease` seconds is stale."""
        self.storage, self.study_id, self.lease = storage, study_id, lease
        self.seen: dict[int, tuple[object, float]] = {}
        self.last_read_at = float("-inf")
        self.reading = threading.Lock()

    def beat(self, trial_ids: Sequence[int]) -> None:
        """Renew the heartbeats of these trials, except of those that have ended.

        Optuna's own method could write a heartbeat that a `finish` has just removed; every worker
        would read it from then on.
        """
        if not trial_ids:
            return
        now = sqlalchemy.func.current_timestamp()
        lives = BEATS.update().where(BEATS.c.trial_id.in_(trial_ids)).values(heartbeat=now)
        with self.storage.engine.begin() as connection:
            connection.execute(lives)

    def stale(self) -> dict[int, object]:
        """Return running trials whose heartbeat did not change for a lease, with the heartbeat."""
        with self.reading:
            beats = self._read()
            now = time.monotonic()
            # This worker was suspended, or the database unavailable: changes may have been missed.
            is_late = now - self.last_read_at > self.lease / 2
            self.last_read_at = now
            before = {} if is_late else self.seen
            self.seen = {
                trial_id: before[trial_id]
                if trial_id in before and before[trial_id][0] == beat
                else (beat, now)
                for trial_id, beat in beats.items()
            }
            seen = self.seen.items()
            return {each: beat for each, (beat, since) in seen if now - since > self.lease}

    def _read(self) -> dict[int, object]:
        # A subquery per heartbeat, for finished trials have none: PostgreSQL would turn an EXISTS
        # into a scan of every trial of the study.
        study = (
            sqlalchemy.select(TRIALS.c.study_id)
            .where(TRIALS.c.trial_id == BEATS.c.trial_id, TRIALS.c.state == TrialState.RUNNING)
            .scalar_subquery()
        )
        query = sqlalchemy.select(BEATS.c.trial_id, BEATS.c.heartbeat)
        query = query.where(study == self.study_id)
        with self.storage.engine.connect() as connection, reading():
            return {row.trial_id: row.heartbeat for row in connection.execute(query)}
