"""The table, its checks, and the nearest name."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fundamentallm.config.fields import ConfigError, Interval
from fundamentallm.config.hyperparameters import HYPERPARAMETERS, Config
from fundamentallm.config.parsing import nearest_name, read_values

GUIDE = {  # name: default, documented range
    "model_dim": (128, (64, 1024)),
    "num_layers": (6, (2, 24)),
    "num_heads": (8, (2, 16)),
    "dropout": (0.1, (0.0, 0.3)),
    "learning_rate": (1e-3, (1e-5, 1e-2)),
    "batch_size": (32, (8, 128)),
    "epochs": (20, (5, 100)),
    "max_seq_len": (256, (128, 2048)),
}


@pytest.mark.parametrize("name", GUIDE)
def test_documented_defaults_and_ranges(name: str) -> None:
    known = HYPERPARAMETERS[name]
    assert (known.default, known.typical) == GUIDE[name]


@pytest.mark.parametrize("known", HYPERPARAMETERS.values(), ids=lambda known: known.name)
def test_every_declaration_is_whole(known) -> None:
    assert known.parse(known.default) == known.default
    assert known.help.endswith(".")
    if known.type in (int, float):
        assert known.possible is not None
    if known.typical:
        assert all(end in known.possible for end in known.typical)
        assert known.warning(known.default) is None


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
def test_parse(name: str, given: object, parsed: object) -> None:
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
def test_refused(name: str, given: object) -> None:
    flag = HYPERPARAMETERS[name].flag
    with pytest.raises(ConfigError, match=f"{flag}: got .*; give ") as error:
        HYPERPARAMETERS[name].parse(given)
    assert "\n" not in str(error.value)


@given(st.integers() | st.floats() | st.text() | st.none() | st.booleans() | st.binary())
def test_any_value_is_taken_or_refused_in_one_way(value: object) -> None:
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
def test_interval(low: float, width: float, number: float, ends: str) -> None:
    high = low + width
    interval = Interval(f"{ends[0]}{low!r}, {high!r}{ends[1]}")
    expected = (low < number < high) or (
        (number == low and ends[0] == "[" and number <= high) and (number != high or ends[1] == "]")
    )
    expected = expected or (
        number == high and ends[1] == "]" and (number != low or ends[0] == "[") and number >= low
    )
    assert (number in interval) == expected


def test_heads_that_do_not_fit_name_those_that_do() -> None:
    with pytest.raises(ConfigError, match=r"--num-heads 7 .* --model-dim 128.* 4 and 8"):
        Config(num_heads=7)


@given(st.integers(1, 512), st.integers(1, 64))
def test_heads_offered_do_fit(width: int, heads: int) -> None:
    try:
        Config(model_dim=width, num_heads=heads)
    except ConfigError as error:
        offered = str(error).rpartition(": ")[2].split(" and ")
        assert offered
        assert all(width % int(number) == 0 for number in offered)
    else:
        assert width % heads == 0


@pytest.mark.parametrize("steps", ["3,2", "0", "1,1", "a", "1,", "-5", "1.5"])
def test_lr_steps_refused(steps: str) -> None:
    with pytest.raises(ConfigError, match="--lr-steps: got"):
        Config(lr_steps=steps)


def test_step_schedule_needs_steps() -> None:
    with pytest.raises(ConfigError, match="needs --lr-steps"):
        Config(lr_schedule="step")
    assert Config(lr_schedule="step", lr_steps="10000,20000").lr_milestones == (10000, 20000)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Config().seed = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_outside_the_documented_range_warns() -> None:
    assert Config().warnings() == []
    (line,) = Config(learning_rate=0.5).warnings()
    assert line == "--learning-rate 0.5 is outside its documented range, 1e-05 to 0.01"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("lr", "learning_rate"),
        ("--bach-size", "batch_size"),
        ("n_embd", "model_dim"),
        ("block_size", "max_seq_len"),
        ("num-layer", "num_layers"),
        ("zzzz", None),
    ],
)
def test_nearest_name(given: str, meant: str | None) -> None:
    assert nearest_name(given) == meant


def test_aliases_are_no_hyperparameters_and_unique() -> None:
    aliases = [alias for known in HYPERPARAMETERS.values() for alias in known.also_called]
    assert len(set(aliases)) == len(aliases)
    assert not set(aliases) & set(HYPERPARAMETERS)


def test_read_values() -> None:
    assert read_values({"batch-size": "8", "seed": 1}, "a.yaml") == {"batch_size": 8, "seed": 1}
    with pytest.raises(ConfigError, match=r"a.yaml: lr is not .*; did you mean learning_rate"):
        read_values({"lr": 1}, "a.yaml")
    with pytest.raises(ConfigError, match=r"a.yaml: --batch-size: got 'x'"):
        read_values({"batch_size": "x"}, "a.yaml")
    with pytest.raises(ConfigError, match="given twice"):
        read_values({"batch-size": 1, "batch_size": 2}, "a.yaml")
