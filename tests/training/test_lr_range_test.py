"""The learning-rate range test: what it suggests, from curves whose answer is known."""

from __future__ import annotations

import math

import pytest
from conftest import TEXT

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.dataset import prepare
from fundamentallm.data.text import Text
from fundamentallm.training import lr_range_test
from fundamentallm.training.lr_range_test import (
    HIGHEST,
    LOWEST,
    MIN_STEPS,
    STEPS,
    smoothed,
    suggest,
)

RATES = [LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1)) for step in range(STEPS)]


def curve(begins: float, least: float) -> list[float]:
    """A loss that falls from one rate to another, in its logarithm, and then rises."""
    a, b = math.log(begins), math.log(least)
    share = [(math.log(rate) - a) / (b - a) for rate in RATES]
    return [4.0 - 2.0 * min(max(s, 0.0), 1.0) + 8.0 * max(s - 1.0, 0.0) ** 2 for s in share]


def test_the_range_goes_from_where_it_begins_to_fall_to_where_it_is_least() -> None:
    found = suggest(RATES, curve(1e-4, 1e-2))
    assert found is not None
    low, high = found
    assert 1e-4 < low < 4e-4
    assert 8e-3 < high < 3e-2


def test_a_loss_that_never_falls_suggests_nothing() -> None:
    assert suggest(RATES, [4.0] * STEPS) is None
    assert suggest(RATES, [4.0 + rate for rate in RATES]) is None
    assert suggest(RATES[: MIN_STEPS - 1], curve(1e-6, 1e-5)[: MIN_STEPS - 1]) is None


def test_a_range_too_narrow_to_search_is_widened() -> None:
    found = suggest(RATES, [4.0] * 150 + [2.0] * 8 + [9.0] * 42)
    assert found is not None
    assert found[1] / found[0] == pytest.approx(10)


def test_the_mean_is_right_from_the_first_value_on() -> None:
    assert smoothed([3.0] * 5) == pytest.approx([3.0] * 5)
    assert smoothed([1.0, 2.0])[1] == pytest.approx((0.09 * 1 + 0.1 * 2) / 0.19)


def test_it_ends_where_the_loss_blows_up(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter(curve(1e-6, 1e-5))
    seen: list[float] = []

    def step(learner: object, dataset: object, step: int, rate: float) -> dict[str, float]:
        seen.append(rate)
        return {"train_loss": next(losses)}

    monkeypatch.setattr(lr_range_test, "_take_step", step)
    found = lr_range_test.find_learning_rate(tiny, prepare(Text.of(TEXT), tiny), device="cpu")
    assert MIN_STEPS < len(seen) < STEPS / 2
    assert found.fell
    assert found.high < seen[-1]
