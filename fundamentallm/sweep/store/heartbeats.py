"""Which workers of a sweep are alive: told by whether their heartbeats change, not by any clock.

A heartbeat is a time that a worker writes to the database. Times of two machines, or of one whose
clock was set, cannot be compared; whether a time has changed while we watched can be seen.
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
    """The heartbeats of one study's attempts, as this process sees them."""

    def __init__(self, storage: optuna.storages.RDBStorage, study_id: int, lease: float) -> None:
        """Nothing is read yet. `lease`: seconds without a change after which one is stale."""
        self.storage, self.study_id, self.lease = storage, study_id, lease
        self.seen: dict[int, tuple[object, float]] = {}
        self.looked = float("-inf")
        self.looking = threading.Lock()

    def beat(self, attempts: Sequence[int]) -> None:
        """Say that these attempts' worker lives; of one that has ended, nothing is said.

        Optuna's own would write a heartbeat anew that a `finish` has removed at the same moment,
        and every look of every worker would read it from then on.
        """
        if not attempts:
            return
        now = sqlalchemy.func.current_timestamp()
        lives = BEATS.update().where(BEATS.c.trial_id.in_(attempts)).values(heartbeat=now)
        with self.storage.engine.begin() as connection:
            connection.execute(lives)

    def stale(self) -> dict[int, object]:
        """Running attempts whose heartbeat has not changed for a lease of watching, and it."""
        with self.looking:
            beats = self._read()
            now = time.monotonic()
            # Stopped ourselves, or the database was away: others could not be heard.
            away = now - self.looked > self.lease / 2
            self.looked = now
            before = {} if away else self.seen
            self.seen = {
                attempt: before[attempt]
                if attempt in before and before[attempt][0] == beat
                else (beat, now)
                for attempt, beat in beats.items()
            }
            seen = self.seen.items()
            return {each: beat for each, (beat, since) in seen if now - since > self.lease}

    def _read(self) -> dict[int, object]:
        # Asked of each heartbeat, for finished trials have none: PostgreSQL would turn an EXISTS
        # into a look at every trial of the study.
        study = (
            sqlalchemy.select(TRIALS.c.study_id)
            .where(TRIALS.c.trial_id == BEATS.c.trial_id, TRIALS.c.state == TrialState.RUNNING)
            .scalar_subquery()
        )
        query = sqlalchemy.select(BEATS.c.trial_id, BEATS.c.heartbeat)
        query = query.where(study == self.study_id)
        with self.storage.engine.connect() as connection, reading():
            return {row.trial_id: row.heartbeat for row in connection.execute(query)}
