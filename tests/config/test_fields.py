"""Parsing and checking one value."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fundamentallm.config.fields import ConfigError, Interval, setting_text, shown
from fundamentallm.config.hyperparameters import HYPERPARAMETERS


@pytest.mark.parametrize(
    ("name", "given", "parsed"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("learning_rate", 1, 1.0),
        ("batch_size", 64.0, 64),
        ("batch_size", "64.0", 64),
        ("seed", "4294967295", 4294967295),
        ("early_stopping", "True", True),
        ("early_stopping", 0, False),
        ("compile", "auto", "auto"),
        ("compile", False, "false"),
        ("compile", "Yes", "true"),
        ("lr_steps", [10, 20], "10,20"),
        ("lr_steps", 10, "10"),
    ],
)
def test_values_are_parsed(name: str, given: object, parsed: object) -> None:
    result = HYPERPARAMETERS[name].parse(given)
    assert result == parsed
    assert type(result) is type(parsed)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("batch_size", 2.5),
        ("batch_size", True),
        ("batch_size", 0),
        ("batch_size", "None"),
        ("batch_size", None),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("learning_rate", 0),
        ("learning_rate", "fast"),
        ("learning_rate", [1e-3]),
        ("dropout", 1.0),
        ("epochs", 10**400),
        ("lr_schedule", "cosin"),
        ("early_stopping", "maybe"),
        ("tokenizer", 3.5),
    ],
)
def test_invalid_values_are_refused(name: str, given: object) -> None:
    flag = HYPERPARAMETERS[name].flag
    with pytest.raises(ConfigError, match=f"{flag}: got .*; give ") as error:
        HYPERPARAMETERS[name].parse(given)
    assert "\n" not in str(error.value)


@given(st.integers() | st.floats() | st.text() | st.none() | st.booleans() | st.binary())
def test_any_value_is_accepted_or_raises_config_error(value: object) -> None:
    for known in HYPERPARAMETERS.values():
        try:
            parsed = known.parse(value)
        except ConfigError:
            continue
        assert type(parsed) is known.type
        assert known.parse(parsed) == parsed
        assert known.parse(str(parsed)) == parsed


@given(
    low=st.floats(-1e6, 1e6),
    width=st.floats(0, 1e6),
    number=st.floats(-3e6, 3e6),
    ends=st.sampled_from(["[]", "[)", "(]", "()"]),
)
def test_intervals_contain_their_numbers(
    low: float, width: float, number: float, ends: str
) -> None:
    high = low + width
    interval = Interval(f"{ends[0]}{low!r}, {high!r}{ends[1]}")
    expected = (low < number < high) or (
        (number == low and ends[0] == "[" and number <= high) and (number != high or ends[1] == "]")
    )
    expected = expected or (
        number == high and ends[1] == "]" and (number != low or ends[0] == "[") and number >= low
    )
    assert (number in interval) == expected


def test_text_is_quoted_if_part_of_it_would_be_overlooked() -> None:
    texts = ["two words", "", " a", "two\nlines", "a  b", "ü"]
    assert [shown(text) for text in texts] == [
        "two words", '""', '" a"', '"two\\nlines"', '"a  b"', "ü",
    ]  # fmt: skip
    assert setting_text("name", "") == 'name ""'
