"""Checks of stored trials: a storage from another person may hold anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from fundamentallm.errors import FundamentallmError, type_and_message
from fundamentallm.metrics import finite
from fundamentallm.status import FINISHED, RETRYABLE, RunStatus
from fundamentallm.sweep.store.optuna_tables import StoredTrial
from fundamentallm.sweep.store.records import Trial
from fundamentallm.sweep.store.stored_values import StoredError, is_number

MOST_RUNS = 10**7


@contextmanager
def reading() -> Iterator[None]:
    """Turn every error that Optuna or SQLAlchemy raises over odd content into a `StoredError`.

    Raises:
        StoredError: The content is invalid.
        SQLAlchemyError: The database is unavailable.
    """
    try:
        yield
    except (SQLAlchemyError, FundamentallmError, OSError, StoredError):
        raise
    except Exception as error:
        raise StoredError(type_and_message(error)) from error


def to_trial(trial: StoredTrial, check: Callable[[object], None]) -> Trial:
    """Return the trial that is stored; `check` raises if its values are invalid.

    Raises:
        StoredError: No worker of the sweep has written this.
    """
    try:
        return _to_trial(trial, check)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        reason = type_and_message(error)
    except StoredError as error:
        reason = str(error)
    raise StoredError(f"trial {trial.number}: {reason}")


def _to_trial(trial: StoredTrial, check: Callable[[object], None]) -> Trial:
    attributes = trial.attributes
    number, values = attributes["run"], attributes["values"]
    if not (type(number) is int and 0 <= number < MOST_RUNS):
        raise StoredError("its run number is invalid")
    check(values)
    past = {int(step): value for step, value in attributes.get("past", {}).items()}
    history = past | trial.history
    result: Mapping[str, Any] = attributes.get("result") or {}
    if not trial.state.is_finished():
        status, result = RunStatus(trial.state.name.lower()), {}
    elif trial.state == TrialState.FAIL and result.get("status") in (None, *FINISHED):
        status, result = RunStatus.LOST, {}
    else:
        status = result["status"]
        if status not in (*FINISHED, *RETRYABLE):
            raise StoredError("its status is invalid")
    return Trial(
        id=trial.id,
        run=number,
        values=values,
        status=RunStatus(status),
        owner=str(attributes.get("owner", "")),
        score=finite(result.get("score")),
        history=tuple(history[step] for step in sorted(history) if is_number(history[step])),
        seconds=finite(result.get("seconds")) or 0.0,
        note=str(result.get("note", "")),
        guess=finite(result.get("guess")),
        stop_requested=attributes.get("stop") is True,
    )
