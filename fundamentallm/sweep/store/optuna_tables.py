"""The tables in which Optuna's storage keeps studies: all that we use of its private parts.

Optuna reads a whole study where we need what is new of it, and looks before it writes. So its
tables are read and written here by their columns, whose meaning its own migrations keep stable.
pyproject.toml bounds its version; test_optuna_tables.py names what a new one lacks.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy
import sqlalchemy.exc
from optuna.storages._rdb import models
from optuna.trial import TrialState

Trial: Any = models.TrialModel
"""As an object: times are stored in UTC or not, by Optuna's version."""
TRIALS: sqlalchemy.Table = models.TrialModel.__table__
STUDIES: sqlalchemy.Table = models.StudyModel.__table__
BEATS: sqlalchemy.Table = models.TrialHeartbeatModel.__table__
ATTRIBUTES: sqlalchemy.Table = models.TrialUserAttributeModel.__table__
PARAMS: sqlalchemy.Table = models.TrialParamModel.__table__
SCORES: sqlalchemy.Table = models.TrialValueModel.__table__
STEPS: sqlalchemy.Table = models.TrialIntermediateValueModel.__table__


@dataclass(frozen=True)
class StoredTrial:
    """What of a trial says something of a run."""

    id: int
    number: int
    state: TrialState
    attributes: dict[str, Any] = field(default_factory=dict)
    history: dict[int, float] = field(default_factory=dict)
    """The values of the metric by their steps."""


def index_by_study(engine: sqlalchemy.Engine) -> None:
    """Let PostgreSQL find the new trials of a study without a look at all of them.

    SQLite needs no index for that: its own hold the trial's id beside the study's. A user who may
    not make one does without.
    """
    name = "fundamentallm_trials_by_study"
    if engine.dialect.name != "postgresql":
        return
    with suppress(sqlalchemy.exc.DBAPIError), engine.begin() as connection:
        if connection.scalar(sqlalchemy.text(f"SELECT to_regclass('{name}')")) is None:
            # Another sweep's writer that is stopped would else hold up this one, and it all others.
            connection.execute(sqlalchemy.text("SET LOCAL lock_timeout = '2s'"))
            index = f"CREATE INDEX IF NOT EXISTS {name} ON trials (study_id, trial_id)"
            connection.execute(sqlalchemy.text(index))


def stored_score(value: float) -> dict[str, Any]:
    """Columns of SCORES for a trial's value."""
    number, kind = models.TrialValueModel.value_to_stored_repr(value)
    return {"objective": 0, "value": number, "value_type": kind}


def stored_step(step: int, value: float) -> dict[str, Any]:
    """Columns of STEPS for a value of the metric."""
    number, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
    return {"step": step, "intermediate_value": number, "intermediate_value_type": kind}


def value_of(row: sqlalchemy.Row[Any]) -> float:
    """The value in a row of STEPS."""
    return models.TrialIntermediateValueModel.stored_repr_to_intermediate_value(
        row.intermediate_value, row.intermediate_value_type
    )
