"""W&B's hyperband, against cases worked out by hand from its description.

Nine runs log a loss after each iteration; bands at 2 and 6 (min_iter 2, eta 3). Of n runs that
reached a band, the value at place int(n / 3), counted from 0 in rising order, is the threshold;
a run with a greater one ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from fundamentallm.sweep.file.diagnostics import Diagnostics
from fundamentallm.sweep.file.hyperband import (
    Hyperband,
    Reached,
    bands_from_max,
    bands_from_min,
    read_hyperband,
)

RULE = Hyperband((2, 6, 18))


def reached(rule: Hyperband, histories: Sequence[Sequence[float]]) -> Reached:
    """Return the values at the bands of runs with these histories."""
    found = Reached(rule)
    for history in histories:
        found.change((), history)
    return found


NINE = [[9.0, float(value)] for value in range(1, 10)]  # at the second iteration: 1, 2, ..., 9


@pytest.mark.parametrize(
    ("eta", "expected"),
    [(3, (2, 6, 18, 54)), (2, (2, 4, 8, 16)), (1.5, (2, 3, 4, 6))],  # 2, 3, 4.5, 6.75
)
def test_bands_from_min_iter(eta: float, expected: tuple[int, ...]) -> None:
    assert bands_from_min(2, eta)[:4] == expected


@pytest.mark.parametrize(
    ("max_iter", "s", "eta", "expected"),
    [
        (27, 2, 3, (3, 9)),  # the example of W&B's documentation
        (27, 9, 3, (1, 3, 9)),
        (5, 2, 2, (1, 2)),  # 2.5 and 1.25
        (2, 1, 3, ()),
    ],
)
def test_bands_from_max_iter(max_iter: int, s: int, eta: float, expected: tuple[int, ...]) -> None:
    assert bands_from_max(max_iter, s, eta) == expected


@pytest.mark.parametrize(
    ("history", "others", "stops"),
    [
        ([9.0], NINE, False),  # no band yet
        ([9.0, 4.0], NINE, False),  # of nine, place 3 holds 4: as good as the threshold
        ([9.0, 5.0], NINE, True),
        ([9.0, 5.0], [], False),  # the first at a band goes on
        ([9.0, 5.0], [[9.0, 5.0]], False),  # itself alone: place 0 is its own
        ([9.0, 5.0], [[9.0, 5.0], [9.0, 4.0]], True),  # of two, place 0 holds 4
        ([9.0, 5.0], [[9.0, 5.0], [3.0]], False),  # the other has not got so far
        ([9.0, 5.0, 1.0], NINE, True),  # judged by the value at the band, 5, not by 1
        ([9.0, 9.0, 9.0, 9.0, 9.0, 2.0], [*NINE, [0.0] * 5 + [3.0]], False),  # band 6, not 2
        ([9.0, 1.0, 9.0, 9.0, 9.0, 4.0], [*NINE, [0.0] * 5 + [3.0]], True),
    ],
)
def test_strict(history: list[float], others: list[list[float]], stops: bool) -> None:
    assert RULE.stops(history, reached(RULE, others)) is stops


@pytest.mark.parametrize(
    ("history", "stops"),
    [
        ([9.0, 5.0], True),
        ([4.0, 5.0], False),  # its best, 4, is at the threshold
        ([9.0, 5.0, 4.0], False),  # better since
        ([9.0, 5.0, 4.5], True),
    ],
)
def test_not_strict(history: list[float], stops: bool) -> None:
    rule = Hyperband(RULE.bands, strict=False)
    assert rule.stops(history, reached(rule, NINE)) is stops


def test_eta_sets_how_many_stay() -> None:
    for eta, threshold in [(3, 4.0), (2, 5.0), (9, 2.0), (10, 1.0)]:  # int(9 / eta): 3, 4, 1, 0
        rule = Hyperband((2,), eta)
        assert rule.threshold(reached(rule, NINE).values[2]) == threshold
    assert RULE.threshold([]) == math.inf


def test_what_a_file_says() -> None:
    findings = Diagnostics("s.yaml")
    rule = read_hyperband({"type": "hyperband", "min_iter": 3}, findings)
    assert rule is not None
    assert (rule.bands[:3], rule.eta, rule.strict) == ((3, 9, 27), 3.0, True)
    rule = read_hyperband(
        {"type": "hyperband", "max_iter": 8, "s": 2, "eta": 2, "strict": False}, findings
    )
    assert rule == Hyperband((2, 4), 2.0, False)
    assert findings.sorted() == []
