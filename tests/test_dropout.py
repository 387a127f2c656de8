"""Dropout drops the share that was asked for, each element by itself, and keeps the mean."""

from __future__ import annotations

import pytest
import torch

from fundamentallm.dropout import add_dropped, drop, keep_factors

COUNT = 1 << 20


def test_the_largest_rate() -> None:
    assert keep_factors(100, rate=0.9999999).isfinite().all()


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
def test_rate_and_mean(rate: float) -> None:
    torch.manual_seed(0)
    factors = keep_factors(COUNT, rate=rate)
    error = (rate * (1 - rate) / COUNT) ** 0.5
    assert float((factors == 0).double().mean()) == pytest.approx(rate, abs=5 * error)
    assert float(factors.double().mean()) == pytest.approx(1, abs=5 * error / (1 - rate))
    assert len(factors.unique()) == 2


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 5, 8, 128])
def test_neighbours_are_independent(distance: int) -> None:
    torch.manual_seed(1)
    dropped = (keep_factors(COUNT, rate=0.3) == 0).double() - 0.3
    together = float((dropped[distance:] * dropped[:-distance]).mean())
    assert abs(together) < 5 * 0.21 / COUNT**0.5  # 0.21 = rate * (1 - rate)


def test_each_place_in_a_draw_has_its_share() -> None:
    torch.manual_seed(2)
    dropped = (keep_factors(COUNT // 4, 4, rate=0.1) == 0).double().mean(0)
    assert dropped.tolist() == pytest.approx([0.1] * 4, abs=5 * (0.09 * 4 / COUNT) ** 0.5)


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 7)])
def test_the_seed_decides(shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    first = keep_factors(*shape, rate=0.5)
    torch.manual_seed(3)
    assert torch.equal(first, keep_factors(*shape, rate=0.5))
    assert first.shape == shape


def test_what_is_dropped_has_no_gradient() -> None:
    x = torch.randn(100, 100).requires_grad_()
    y = drop(x, 0.4)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 0, y == 0)
    assert torch.equal(y, x * x.grad)
    assert drop(x, 0.0) is x


def test_the_stream_itself_is_kept() -> None:
    x, branch = torch.randn(50, 50), torch.randn(50, 50)
    factors = keep_factors(50, 50, rate=0.5)
    torch.testing.assert_close(add_dropped(x, branch, 0.5, factors), x + branch * factors)
    assert torch.equal(add_dropped(x, branch, 0.5, factors)[factors == 0], x[factors == 0])
    assert torch.equal(add_dropped(x, branch, 0.0, None), x + branch)
