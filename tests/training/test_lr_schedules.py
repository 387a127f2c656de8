"""The learning rate, pinned by numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fundamentallm.config.hyperparameters import HYPERPARAMETERS, Config
from fundamentallm.training.lr_schedules import decay_start, learning_rate


def rate(step: int, **settings: object) -> float:
    config = Config(learning_rate=1.0, **settings)  # pyright: ignore[reportArgumentType]
    return learning_rate(config, step, total_steps=101, steps_per_epoch=10)


@pytest.mark.parametrize(
    ("settings", "step", "expected"),
    [
        ({}, 0, 1.0),
        ({}, 100, 1.0),
        ({"warmup_steps": 4}, 0, 0.25),
        ({"warmup_steps": 4}, 3, 1.0),
        ({"lr_schedule": "linear"}, 0, 1.0),
        ({"lr_schedule": "linear"}, 50, 0.55),
        ({"lr_schedule": "linear"}, 100, 0.1),
        ({"lr_schedule": "linear", "warmup_steps": 51}, 50, 1.0),
        ({"lr_schedule": "linear", "warmup_steps": 51}, 75, 0.55),
        ({"lr_schedule": "cosine", "min_lr_ratio": 0}, 0, 1.0),
        ({"lr_schedule": "cosine", "min_lr_ratio": 0}, 25, 0.8535533905932737),
        ({"lr_schedule": "cosine"}, 50, 0.55),
        ({"lr_schedule": "cosine"}, 100, 0.1),
        ({"lr_schedule": "wsd"}, 80, 1.0),  # 101 steps: 81 stable, 20 of decay
        ({"lr_schedule": "wsd"}, 81, 1 - 0.9 / 20),
        ({"lr_schedule": "wsd"}, 90, 0.55),
        ({"lr_schedule": "wsd"}, 100, 0.1),
        ({"lr_schedule": "wsd", "warmup_steps": 4}, 0, 0.25),
        ({"lr_schedule": "wsd", "warmup_steps": 91}, 90, 1.0),
        ({"lr_schedule": "wsd", "warmup_steps": 91}, 91, 0.91),
        ({"lr_schedule": "wsd", "decay_fraction": 1, "min_lr_ratio": 0}, 0, 100 / 101),
        ({"lr_schedule": "wsd", "decay_fraction": 0.001, "min_lr_ratio": 0}, 99, 1.0),
        ({"lr_schedule": "wsd", "decay_fraction": 0.001, "min_lr_ratio": 0}, 100, 0.0),
        ({"lr_schedule": "step", "lr_steps": "10,20"}, 9, 1.0),
        ({"lr_schedule": "step", "lr_steps": "10,20"}, 10, 0.1),
        ({"lr_schedule": "step", "lr_steps": "10,20", "lr_decay": 0.5}, 20, 0.25),
        ({"lr_schedule": "exponential"}, 10, 0.96),
        ({"lr_schedule": "exponential"}, 5, 0.96**0.5),
        ({"lr_schedule": "exponential", "lr_decay": 0.5}, 30, 0.125),
    ],
)
def test_numbers(settings: dict[str, object], step: int, expected: float) -> None:
    assert rate(step, **settings) == pytest.approx(expected, rel=1e-12)


@given(
    total=st.integers(1, 3000),
    more=st.integers(0, 3000),
    fraction=st.floats(0.001, 1),
    warmup=st.integers(0, 300),
)
def test_up_to_its_decay_wsd_is_the_same_whatever_its_length(
    total: int, more: int, fraction: float, warmup: int
) -> None:
    config = Config(lr_schedule="wsd", decay_fraction=fraction, warmup_steps=warmup)

    def rate_at(step: int, total_steps: int) -> float:
        return learning_rate(config, step, total_steps=total_steps, steps_per_epoch=7.5)

    begin = decay_start(config, total)
    for step in range(0, min(begin, total), 1 + begin // 20):
        assert rate_at(step, total) == rate_at(step, total + more)
    if begin < total:
        assert rate_at(begin, total) < config.learning_rate
        assert rate_at(total - 1, total) == pytest.approx(0.1 * config.learning_rate)


@given(
    schedule=st.sampled_from(HYPERPARAMETERS["lr_schedule"].choices),
    warmup=st.integers(0, 300),
    total=st.integers(1, 200),
    step=st.integers(0, 199),
)
def test_always_above_0_and_at_most_the_peak(
    schedule: str, warmup: int, total: int, step: int
) -> None:
    config = Config(lr_schedule=schedule, warmup_steps=warmup, lr_steps="50", learning_rate=0.01)
    value = learning_rate(config, step, total_steps=total, steps_per_epoch=7.5)
    assert 0 < value <= 0.01
    if warmup and step < warmup - 1:
        later = learning_rate(config, step + 1, total_steps=total, steps_per_epoch=7.5)
        assert schedule in ("step", "exponential") or later >= value
