"""Dropout drops the share that was asked for, each element by itself, and keeps the mean."""

from __future__ import annotations

import pytest
import torch
from conftest import need_kernels
from torch import Tensor

from fundamentallm.config.hyperparameters import Config
from fundamentallm.model import native
from fundamentallm.model.attention import rotations
from fundamentallm.model.dropout import add_dropped, drop
from fundamentallm.model.linear import mlp, project
from fundamentallm.model.transformer import MLP, Attention

COUNT = 1 << 20


@pytest.fixture(params=["kernels.c", "torch"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test with kernels.c and without."""
    if request.param == "torch":
        monkeypatch.setattr(native, "kernels", lambda: None)
    else:
        need_kernels()


def factors(*shape: int, rate: float) -> Tensor:
    return drop(torch.ones(shape), rate)


def test_the_largest_rate() -> None:
    assert factors(100, rate=0.9999999).isfinite().all()


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
def test_rate_and_mean(rate: float) -> None:
    torch.manual_seed(0)
    found = factors(COUNT, rate=rate)
    error = (rate * (1 - rate) / COUNT) ** 0.5
    assert float((found == 0).double().mean()) == pytest.approx(rate, abs=5 * error)
    assert float(found.double().mean()) == pytest.approx(1, abs=5 * error / (1 - rate))
    assert len(found.unique()) == 2


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 5, 8, 16, 32, 128, 1 << 15])
def test_neighbours_are_independent(distance: int) -> None:
    torch.manual_seed(1)
    dropped = (factors(COUNT, rate=0.3) == 0).double() - 0.3
    together = float((dropped[distance:] * dropped[:-distance]).mean())
    assert abs(together) < 5 * 0.21 / COUNT**0.5  # 0.21 = rate * (1 - rate)


def test_one_call_is_independent_of_the_next() -> None:
    torch.manual_seed(1)
    one, other = ((factors(COUNT, rate=0.3) == 0).double() - 0.3 for _ in range(2))
    assert abs(float((one * other).mean())) < 5 * 0.21 / COUNT**0.5


def test_each_place_has_its_share() -> None:
    torch.manual_seed(2)
    dropped = (factors(COUNT // 64, 64, rate=0.1) == 0).double().mean(0)
    assert dropped.tolist() == pytest.approx([0.1] * 64, abs=5 * (0.09 * 64 / COUNT) ** 0.5)


def test_runs_are_as_long_as_chance_makes_them() -> None:
    """Lengths of runs of kept elements are geometric, by chi-squared."""
    torch.manual_seed(4)
    places = (factors(COUNT, rate=0.25) == 0).nonzero().flatten()
    lengths = (places.diff() - 1).clamp(max=20)
    found = torch.bincount(lengths, minlength=21).double()
    shares = torch.tensor([0.25 * 0.75**k for k in range(20)] + [0.75**20], dtype=torch.float64)
    wanted = shares * found.sum()
    assert float(((found - wanted) ** 2 / wanted).sum()) < 20 + 5 * 40**0.5


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 7), (4, 16)])
def test_the_seed_decides(shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    first = factors(*shape, rate=0.5)
    torch.manual_seed(3)
    assert torch.equal(first, factors(*shape, rate=0.5))
    assert first.shape == shape


def test_what_is_dropped_has_no_gradient() -> None:
    x = torch.randn(101, 97).requires_grad_()
    y = drop(x, 0.4)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 0, y == 0)
    assert torch.equal(y, x * x.grad)
    assert drop(x, 0.0) is x


def test_the_stream_itself_is_kept() -> None:
    x, branch = torch.randn(2, 51, 53).requires_grad_(), torch.randn(2, 51, 53).requires_grad_()
    y = add_dropped(x, branch, 0.5)
    y.sum().backward()
    assert x.grad is not None
    assert branch.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))
    torch.testing.assert_close(y, x + branch * branch.grad)
    assert torch.equal(y[branch.grad == 0], x[branch.grad == 0])
    assert torch.equal(add_dropped(x, branch, 0.0), x + branch)


@pytest.mark.parametrize("tokens", [10, 200])  # few, and enough for kernels.c
def test_products_drop_their_share(tokens: int) -> None:
    torch.manual_seed(6)
    x, weight, stream = torch.randn(tokens, 24), torch.randn(50, 24), torch.randn(tokens, 50)
    gate = torch.randn(40, 24)
    products = [
        (stream, lambda rate: project(x, weight, onto=stream, dropout=rate)),
        (x, lambda rate: mlp(x, gate, gate, weight[:24, :1].expand(24, 40).contiguous(), rate)),
    ]
    for base, of in products:
        whole, y = of(0.0) - base, of(0.3) - base
        dropped = y.abs() < 1e-6
        share = float(dropped.double().mean())
        assert share == pytest.approx(0.3, abs=5 * (0.21 / y.numel()) ** 0.5)
        torch.testing.assert_close(y[~dropped], whole[~dropped] / 0.7, rtol=2e-4, atol=1e-4)


def test_attention_and_mlp_drop_what_they_add() -> None:
    config = Config(model_dim=32, num_heads=2, dropout=0.25, max_seq_len=64)
    rotation = rotations(64, 16)
    x = torch.randn(4, 64, 32)
    for part in (Attention(config), MLP(config)):
        torch.nn.init.normal_(part.out.weight)
        arguments = (x, rotation, None) if isinstance(part, Attention) else (x,)
        for training, rate in ((True, 0.25), (False, 0.0)):
            part.train(training)
            dropped = (part(*arguments) == x).double().mean()
            assert float(dropped) == pytest.approx(
                rate, abs=5 * (0.19 / x.numel()) ** 0.5 * training
            )


def test_threads_change_nothing() -> None:
    def outcome(threads: int) -> Tensor:
        torch.set_num_threads(threads)
        torch.manual_seed(5)
        return factors(1000, 77, rate=0.2)

    before = torch.get_num_threads()
    try:
        one, three = outcome(1), outcome(3)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, three)
