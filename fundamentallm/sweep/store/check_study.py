"""Checks what a storage says of a sweep: one in a folder from others may say anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from fundamentallm.config.parsing import read_config
from fundamentallm.errors import FundamentallmError
from fundamentallm.metrics import finite
from fundamentallm.status import FINISHED, RETRYABLE, RunStatus
from fundamentallm.sweep.file.distributions import Categorical, Distribution, IntUniform, same_key
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.file.sweep_file import SweepFile, parse_sweep
from fundamentallm.sweep.search.choose import CHOICES
from fundamentallm.sweep.store.optuna_tables import StoredTrial
from fundamentallm.sweep.store.records import Trial

MOST_RUNS = 10**7


class StoredError(Exception):
    """The storage holds what no sweep has written there."""


@contextmanager
def reading() -> Iterator[None]:
    """Whatever Optuna or SQLAlchemy makes of odd content inside is a `StoredError`.

    Raises:
        StoredError: It met some.
        SQLAlchemyError: The database could not be asked.
    """
    try:
        yield
    except (SQLAlchemyError, FundamentallmError, OSError, StoredError):
        raise
    except Exception as error:
        raise StoredError(f"{type(error).__name__}: {error}") from error


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_number(value: object) -> bool:
    return finite(value) is not None


def _are_points(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(p, dict) for p in value)


def _are_texts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, (*value, *value.values())))


FACTS: Mapping[str, Callable[[Any], bool]] = {
    "text": _is_text,
    "file": _is_text,
    "fixed": lambda value: isinstance(value, dict),
    "device": _is_text,
    "seed": lambda value: type(value) is int,
    "sampler": lambda value: value in CHOICES,
    "lease": lambda value: _is_number(value) and 0 < value < 1e9,
    "data": lambda value: value is None or _is_text(value),
    "data_name": _is_text,
    "data_sha256": _is_text,
    "wandb": lambda value: value in ("", "offline", "online"),
    "wandb_sweep_id": _is_text,
    "id": _is_text,
}
"""What is true of each thing that a sweep's maker writes down."""
LATER_FACTS: Mapping[str, Callable[[Any], bool]] = {
    "texts": _are_texts,
    "texts_from": _is_text,
    "points": _are_points,
}
"""The same of what only some sweeps have."""


def check_facts(facts: object) -> SweepFile:
    """See that facts are what a sweep's maker writes down; the sweep that they give.

    Raises:
        StoredError: They are not.
    """
    if not isinstance(facts, dict):
        raise StoredError("its facts are no mapping")
    for name, fits in {**FACTS, **LATER_FACTS}.items():
        if name in facts and not fits(facts[name]):
            raise StoredError(f"its {name} is of another kind")
        if name in FACTS and name not in facts:
            raise StoredError(f"its {name} is missing")
    try:
        sweep = parse_sweep(facts["text"], facts["file"])
        read_config(facts["fixed"], "fixed")
    except FundamentallmError as error:
        raise StoredError(str(error).partition("\n")[0]) from None
    check = ValueCheck(sweep.parameters)
    for point in facts.get("points", ()):
        check(point)
    return sweep


class ValueCheck:
    """Sees that values are those of a run of a sweep."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        """`parameters`: the sweep's."""
        self.fits = {each.name: _fitting(each.distribution) for each in parameters}

    def __call__(self, values: object) -> None:
        """See that there is a value of its kind for every parameter, and for nothing else.

        Raises:
            StoredError: There is not.
        """
        if not isinstance(values, dict) or values.keys() != self.fits.keys():
            raise StoredError("its values are not for the sweep's parameters")
        for name, fits in self.fits.items():
            if not fits(values[name]):
                raise StoredError(f"its {name} is none that the sweep has")


def _fitting(distribution: Distribution) -> Callable[[Any], bool]:
    """What tells whether a value may be of a distribution."""
    if isinstance(distribution, Categorical):
        keys = set(map(same_key, distribution.values))
        return lambda value: same_key(value) in keys
    if isinstance(distribution, IntUniform):
        low, high = distribution.low, distribution.high
        return lambda value: type(value) is int and low <= value <= high
    return _is_number


def attempt_of(trial: StoredTrial, check: Callable[[object], None]) -> Trial:
    """An attempt as a trial of the study has it; `check` is told its values.

    Raises:
        StoredError: It is none that a worker of the sweep has written.
    """
    try:
        return _attempt(trial, check)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
    except StoredError as error:
        reason = str(error)
    raise StoredError(f"trial {trial.number}: {reason}")


def _attempt(trial: StoredTrial, check: Callable[[object], None]) -> Trial:
    attributes = trial.attributes
    number, values = attributes["run"], attributes["values"]
    if not (type(number) is int and 0 <= number < MOST_RUNS):
        raise StoredError("its run has no number")
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
            raise StoredError("it ended in no way that a run can")
    return Trial(
        id=trial.id,
        run=number,
        values=values,
        status=RunStatus(status),
        owner=str(attributes.get("owner", "")),
        score=finite(result.get("score")),
        history=tuple(history[step] for step in sorted(history) if _is_number(history[step])),
        seconds=finite(result.get("seconds")) or 0.0,
        note=str(result.get("note", "")),
        guess=finite(result.get("guess")),
    )
