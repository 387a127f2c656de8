"""Learning rate carried to another length, batch size and width."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fundamentallm.training.lr_transfer import scaled_learning_rate


def scaled(rate: float, *, batch: tuple[int, int], tokens: tuple[int, int]) -> float:
    return scaled_learning_rate(
        rate, batch_from=batch[0], batch_to=batch[1], tokens_from=tokens[0], tokens_to=tokens[1]
    )


def test_the_same_run_keeps_its_rate() -> None:
    assert scaled(0.003, batch=(16, 16), tokens=(1000, 1000)) == 0.003


def test_a_longer_run_has_a_lower_rate_and_a_larger_batch_a_higher() -> None:
    assert 0.0004 < scaled(0.001, batch=(16, 16), tokens=(1000, 8000)) < 0.0007
    assert 0.0015 < scaled(0.001, batch=(16, 64), tokens=(1000, 1000)) < 0.002


def test_the_batch_hardly_matters_at_the_same_number_of_steps() -> None:
    assert scaled(0.001, batch=(8, 64), tokens=(1000, 8000)) == pytest.approx(0.001, rel=0.3)


def test_a_wider_model_has_a_slightly_lower_rate() -> None:
    rate = scaled_learning_rate(
        0.001, batch_from=1, batch_to=1, tokens_from=1, tokens_to=1, width_from=64, width_to=256
    )
    assert 0.0007 < rate < 0.0008


def test_two_steps_are_as_good_as_one() -> None:
    halfway = scaled(0.001, batch=(16, 32), tokens=(1000, 5000))
    there = scaled(halfway, batch=(32, 8), tokens=(5000, 20_000))
    assert there == pytest.approx(scaled(0.001, batch=(16, 8), tokens=(1000, 20_000)))


def test_a_planner_can_use_it_without_torch() -> None:
    code = (
        "import sys, fundamentallm.training.lr_transfer\n"
        "print([m for m in ('torch', 'numpy', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
