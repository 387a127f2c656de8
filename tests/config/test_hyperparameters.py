"""The hyperparameters: defaults, ranges and combinations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fundamentallm.config.fields import ConfigError
from fundamentallm.config.hyperparameters import HYPERPARAMETERS, Config

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
def test_every_declaration_is_complete(known) -> None:
    assert known.parse(known.default) == known.default
    assert known.help.endswith(".")
    if known.type in (int, float):
        assert known.possible is not None
    if known.typical:
        assert all(end in known.possible for end in known.typical)
        assert known.warning(known.default) is None


def test_an_error_about_heads_names_valid_numbers() -> None:
    with pytest.raises(ConfigError, match=r"--num-heads 7 .* --model-dim 128.* 4 and 8"):
        Config(num_heads=7)


@given(st.integers(1, 512), st.integers(1, 64))
def test_suggested_numbers_of_heads_are_valid(width: int, heads: int) -> None:
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
