"""Laws of the loss, and their fit to observations of a known law."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fundamentallm.scaling.fit import COVARIANCE, PRIOR, forecast, updated
from fundamentallm.scaling.law import Law, Observation

MANY = 1e12
"""Characters of a text that no run repeats."""
OTHER = replace(PRIOR, offset=1.3, size_scale=0.3, size_exponent=0.3, token_scale=0.5)
"""A law that differs from the prior."""
SIZES = (1e5, 4e5, 1.6e6)
LENGTHS = (2.5e5, 1e6, 4e6)


def observed(law: Law, noise: float = 0.0, characters: float = MANY, seed: int = 0) -> list:
    random = np.random.default_rng(seed)
    return [
        Observation(int(n), d, characters, law.loss(n, d, characters) + noise * random.normal())
        for n in SIZES
        for d in LENGTHS
    ]


def test_the_loss_is_the_sum_of_its_parts() -> None:
    law = Law(1.0, 0.1, 0.5, 0.4, 0.25, 10.0, 0.01, 0.5, 2.0)
    assert law.loss(4e6, 16e6, MANY) == pytest.approx(1.0 + 0.1 / 2 + 0.4 / 2)
    effective = 1 + 10 * (1 - np.exp(-0.3))  # 4 epochs of a million characters
    expected = 1.0 + 0.1 / 2 + 0.4 * effective**-0.25 + 0.01 * 2 * 3**2
    assert law.loss(4e6, 4e6, 1e6) == pytest.approx(expected)


def test_repeated_text_is_worth_less_than_new_text() -> None:
    once, often = PRIOR.loss(1e5, 1e7, MANY), PRIOR.loss(1e5, 1e7, 1e6)
    assert once < often < PRIOR.loss(1e5, 1e6, 1e6)


def test_a_large_model_memorizes_a_small_text() -> None:
    assert PRIOR.loss(5e6, 40 * 5e4, 5e4) > PRIOR.loss(5e6, 5 * 5e4, 5e4)
    assert PRIOR.loss(5e6, 40 * 5e4, 5e4) > PRIOR.loss(1e5, 40 * 5e4, 5e4)


def test_without_observations_the_law_stays() -> None:
    assert updated(PRIOR, []) == PRIOR


def test_many_runs_reveal_their_law() -> None:
    runs = [each for seed in range(4) for each in observed(OTHER, 0.01, seed=seed)]
    found = updated(PRIOR, runs)
    for size, tokens in ((1.6e6, 16e6), (6.4e6, 4e6)):
        assert found.loss(size, tokens, MANY) == pytest.approx(
            OTHER.loss(size, tokens, MANY), abs=0.02
        )


def test_few_runs_set_the_scale_and_leave_the_exponents() -> None:
    doubled = replace(
        PRIOR,
        offset=2 * PRIOR.offset,
        size_scale=2 * PRIOR.size_scale,
        token_scale=2 * PRIOR.token_scale,
        memorization=2 * PRIOR.memorization,
    )
    found = updated(PRIOR, observed(doubled)[:2])
    assert found.loss(4e5, 1e6, MANY) == pytest.approx(doubled.loss(4e5, 1e6, MANY), rel=0.05)
    assert found.size_exponent == pytest.approx(PRIOR.size_exponent, rel=0.05)
    assert found.token_exponent == pytest.approx(PRIOR.token_exponent, rel=0.05)


def test_one_odd_run_moves_the_law_little() -> None:
    runs = observed(OTHER, 0.01)
    odd = [*runs[:4], replace(runs[4], loss=runs[4].loss + 3), *runs[5:]]
    target = 1.6e6, 8e6, MANY
    assert updated(PRIOR, odd).loss(*target) == pytest.approx(
        updated(PRIOR, runs).loss(*target), abs=0.02
    )


def test_a_text_with_nothing_to_learn_has_no_loss() -> None:
    runs = [Observation(100_000, tokens, 1e5, 1e-4) for tokens in LENGTHS]
    assert updated(PRIOR, runs).loss(4e5, 4e6, 1e5) < 0.05


def test_intervals_hold_nine_of_ten_losses() -> None:
    """Each of 40 simulated sweeps has a law of its own, drawn from the prior."""
    random = np.random.default_rng(0)
    held = 0
    for index in range(40):
        law = Law.of_logs(random.multivariate_normal(PRIOR.logs, COVARIANCE))
        runs = observed(law, 0.012, seed=index)[3:6]
        expected = forecast(PRIOR, runs, 4e5, 16e6, MANY, noise=0.012)
        truth = law.loss(4e5, 16e6, MANY) + 0.012 * random.normal()
        held += expected.low <= truth <= expected.high
    assert 32 <= held <= 39


def test_seeds_of_runs_are_shared_by_points_of_a_curve() -> None:
    """Ten points of one run say less about another run than points of ten runs."""
    tokens = np.geomspace(1e6, 4e6, 10)
    points = [Observation(400_000, d, MANY, OTHER.loss(4e5, d, MANY)) for d in tokens]
    curve = [replace(point, run="run-1") for point in points]
    one = forecast(PRIOR, curve, 4e5, 2e6, MANY, noise=0.05)
    ten = forecast(PRIOR, points, 4e5, 2e6, MANY, noise=0.05)
    assert one.width > 1.1 * ten.width
    assert one.low < one.loss < one.high
