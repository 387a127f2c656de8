"""Older clients of W&B, and the newest one, keep the promises that docs/wandb.md says they keep."""

from __future__ import annotations

import tomllib

import pytest
from client_environments import NEWEST, NIGHTLY
from client_operations import OPERATIONS, mark, stored
from conftest import ROOT

MARKS = stored()


def works(version: str, operation: str) -> bool:
    """Return whether the docs say that an operation works; the newest client does everything."""
    return version == NEWEST or MARKS[OPERATIONS[operation][1]][version].works


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("version", "operation"),
    [(version, name) for version in NIGHTLY for name in OPERATIONS if works(version, name)],
)
def test_an_operation_with_a_client(version: str, operation: str) -> None:
    found = mark(version, operation)
    assert found.works, found.note


def test_the_lower_bound_is_the_oldest_client_that_does_everything() -> None:
    """It has no upper bound: a client that is newer than we are does no harm."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (bound,) = (each for each in declared["dependencies"] if each.startswith("wandb"))
    complete = [
        number
        for number in next(iter(MARKS.values()))
        if all(marks[number].works for marks in MARKS.values())
    ]
    assert bound == f"wandb>={complete[0]}"
