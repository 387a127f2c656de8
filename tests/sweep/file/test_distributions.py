"""Draws follow their distribution, and the inverse agrees; CI compares with W&B's own numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fundamentallm.sweep.file.diagnostics import Diagnostics
from fundamentallm.sweep.file.distributions import Continuous, Distribution, rounded_quantile
from fundamentallm.sweep.file.parameters import read_distribution

UNIT = st.floats(0.0005, 0.9995)
SMOOTH = [
    {"min": 0.1, "max": 0.9},
    {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2},
    {"distribution": "log_uniform", "min": -9, "max": -2},
    {"distribution": "inv_log_uniform_values", "min": 2, "max": 50},
    {"distribution": "inv_log_uniform", "min": 1, "max": 3},
    {"distribution": "normal", "mu": 3, "sigma": 2},
    {"distribution": "log_normal", "mu": -3, "sigma": 0.5},
    {"distribution": "beta", "a": 2, "b": 5},
]
STEPS = [
    {"values": ["a", 1, True, None, [2, 3]]},
    {"values": [5, 6, 7], "probabilities": [0.7, 0.1, 0.2]},
    {"min": 3, "max": 17},
    {"value": "one"},
]


def make(entry: dict[str, object]) -> Distribution:
    made = read_distribution(dict(entry), (), Diagnostics("s"))
    assert made is not None
    return made


@pytest.mark.parametrize("entry", SMOOTH, ids=str)
@given(u=UNIT)
def test_position_undoes_quantile(entry: dict[str, object], u: float) -> None:
    made = make(entry)
    assert made.position(made.quantile(u)) == pytest.approx(u, abs=1e-6)
    assert isinstance(made, Continuous)
    low, high = made.ends
    assert low <= made.quantile(u) <= high


@pytest.mark.parametrize("entry", STEPS, ids=str)
@given(u=st.floats(0, 1))
def test_position_lies_in_the_value_s_share(entry: dict[str, object], u: float) -> None:
    made = make(entry)
    assert made.quantile(made.position(made.quantile(u))) == made.quantile(u)


def test_ends_and_shares() -> None:
    assert [make({"min": 3, "max": 5}).quantile(u) for u in (0, 0.34, 0.67, 1)] == [3, 4, 5, 5]
    weighted = make({"values": ["a", "b", "c"], "probabilities": [0.5, 0.5, 0]})
    assert [weighted.quantile(u) for u in (0, 0.49, 0.51, 1)] == ["a", "a", "b", "b"]
    logs = make({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2})
    assert logs.quantile(0.5) == pytest.approx(1e-3)
    assert make({"distribution": "normal", "sigma": 0, "mu": 4}).quantile(0.3) == 4


def test_rounding_is_to_even_multiples_and_keeps_the_kind_of_q() -> None:
    whole = make({"distribution": "q_uniform", "min": 0, "max": 10, "q": 2})
    assert [whole.quantile(u) for u in (0.1, 0.3, 0.5)] == [0, 4, 4]  # 0.5, 1.5, 2.5 twos
    assert type(whole.quantile(0.3)) is int
    parts = make({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25})
    assert parts.quantile(0.6) == 0.5
    assert type(make({"distribution": "q_normal"}).quantile(0.9)) is float  # q is 1.0


def test_grids() -> None:
    assert make({"values": [1, 2, 1.0, True]}).grid() == (1.0, 2, True)
    assert list(make({"min": 3, "max": 5}).grid() or ()) == [3, 4, 5]
    steps = make({"distribution": "q_uniform", "min": 0, "max": 0.3, "q": 0.1}).grid()
    assert steps is not None
    assert list(steps) == pytest.approx([0, 0.1, 0.2])  # the high end is left out
    assert make({"distribution": "q_normal"}).grid() is None
    endless = make({"distribution": "q_uniform", "min": 0, "max": 1e9, "q": 1e-3}).grid()
    assert endless is not None
    assert len(endless) == 10**12


def test_a_value_that_is_not_there_has_no_position() -> None:
    with pytest.raises(ValueError, match="not in list"):
        make({"values": [1, 2]}).position(3)
    assert make({"min": 1, "max": 4}).position(99) == pytest.approx(0.875)
    assert make({"distribution": "log_normal"}).position(-1) == 0
    assert math.isinf(make({"distribution": "normal"}).quantile(1))


RATE = {"distribution": "log_uniform_values", "min": 0.001, "max": 0.0123456789}


def test_ends_are_as_the_file_gives_them() -> None:
    rate, dropout = make(RATE), make({"min": 0.0, "max": 0.3})
    assert rate.quantile(0) != 0.001  # a logarithm and back
    assert [rounded_quantile(rate, u) for u in (0, 1e-7, 1)] == [0.001, 0.001, 0.0123456789]
    assert [rounded_quantile(dropout, u) for u in (0, 1e-6, 1 - 1e-6, 1)] == [0, 0, 0.3, 0.3]
    assert isinstance(rate, Continuous)
    assert rate.bounds == (0.001, 0.0123456789)


@pytest.mark.parametrize("entry", SMOOTH, ids=str)
@given(u=UNIT)
def test_what_is_suggested_has_few_digits_and_means_the_same(
    entry: dict[str, object], u: float
) -> None:
    made = make(entry)
    assert isinstance(made, Continuous)
    value, short = made.quantile(u), rounded_quantile(made, u)
    low, high = made.bounds
    assert low <= short <= high
    assert type(short) is float
    assert abs(short - value) <= 1e-4 * (value if made.in_logs else high - low)
    assert (
        rounded_quantile(made, made.position(short)) == short
    )  # so a sweep that resumes has it again


def test_what_a_search_suggests_keeps_to_multiples_of_q() -> None:
    tenths = make({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.1})
    assert all(rounded_quantile(tenths, u / 20) == tenths.quantile(u / 20) for u in range(21))
