"""Tables of Optuna's storage: the only private parts of Optuna that this package uses.

Optuna reads a whole study where only new trials are needed, and reads before it writes without
holding the row. So its tables are read and written here by column; its migrations keep their
meaning stable. pyproject.toml bounds its version; test_optuna_tables.py names what a new version
lacks.
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
"""Mapped class: it stores times in UTC or not, by Optuna's version."""
TRIALS: sqlalchemy.Table = models.TrialModel.__table__
STUDIES: sqlalchemy.Table = models.StudyModel.__table__
STUDY_ATTRIBUTES: sqlalchemy.Table = models.StudyUserAttributeModel.__table__
BEATS: sqlalchemy.Table = models.TrialHeartbeatModel.__table__
ATTRIBUTES: sqlalchemy.Table = models.TrialUserAttributeModel.__table__
PARAMS: sqlalchemy.Table = models.TrialParamModel.__table__
SCORES: sqlalchemy.Table = models.TrialValueModel.__table__
STEPS: sqlalchemy.Table = models.TrialIntermediateValueModel.__table__


@dataclass(frozen=True)
class StoredTrial:
    """The parts of Optuna's trial that describe a run."""

    id: int
    number: int
    state: TrialState
    attributes: dict[str, Any] = field(default_factory=dict)
    history: dict[int, float] = field(default_factory=dict)
    """Values of the metric by step."""


def index_by_study(engine: sqlalchemy.Engine) -> None:
    """Create an index by which PostgreSQL finds a study's new trials without a full scan.

    SQLite needs none: its index on the study holds the trial's id too. Without the right to create
    one, the sweep works all the same.
    """
    name = "fundamentallm_trials_by_study"
    if engine.dialect.name != "postgresql":
        return
    with suppress(sqlalchemy.exc.DBAPIError), engine.begin() as connection:
        if connection.scalar(sqlalchemy.text(f"SELECT to_regclass('{name}')")) is None:
            # Else a suspended writer of another sweep would block this one, and it all others.
            connection.execute(sqlalchemy.text("SET LOCAL lock_timeout = '2s'"))
            index = f"CREATE INDEX IF NOT EXISTS {name} ON trials (study_id, trial_id)"
            connection.execute(sqlalchemy.text(index))


def stored_score(value: float) -> dict[str, Any]:
    """Return the columns of SCORES for a trial's value."""
    number, kind = models.TrialValueModel.value_to_stored_repr(value)
    return {"objective": 0, "value": number, "value_type": kind}


def stored_step(step: int, value: float) -> dict[str, Any]:
    """Return the columns of STEPS for a value of the metric."""
    number, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
    return {"step": step, "intermediate_value": number, "intermediate_value_type": kind}


def value_of(row: sqlalchemy.Row[Any]) -> float:
    """Return the value in a row of STEPS."""
    return models.TrialIntermediateValueModel.stored_repr_to_intermediate_value(
        row.intermediate_value, row.intermediate_value_type
    )
