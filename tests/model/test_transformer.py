"""The transformer, its cache, and the optimizer."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import nn

from fundamentallm.config.hyperparameters import Config
from fundamentallm.machine import device
from fundamentallm.machine.device import pick_device
from fundamentallm.model.attention import rotate, rotations
from fundamentallm.model.size import parameter_count
from fundamentallm.model.transformer import Cache, Transformer
from fundamentallm.training import train_step as learning
from fundamentallm.training.optimizer import (
    ADAM_SCALE,
    EMA_DECAY,
    MOMENTUM,
    MUON_SCALE,
    QUINTICS,
    Muon,
    orthogonalize,
    orthogonalize_with_torch,
)
from fundamentallm.training.train_step import TrainStep


def scrambled(config: Config) -> Transformer:
    """A model whose every weight matters (a new one scores 0 everywhere)."""
    torch.manual_seed(1)
    model = Transformer(11, config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    return model


def test_a_new_model_guesses_uniformly(tiny: Config) -> None:
    assert (Transformer(11, tiny)(torch.randint(11, (2, 16))) == 0).all()


@pytest.mark.parametrize("heads", [1, 2, 16])
def test_no_token_sees_a_later_one(tiny: Config, heads: int) -> None:
    model = scrambled(replace(tiny, num_heads=heads))
    tokens = torch.randint(11, (1, 16))
    before = model(tokens)
    for position in range(16):
        changed = tokens.clone()
        changed[0, position] = (changed[0, position] + 1) % 11
        after = model(changed)
        assert torch.equal(before[:, :position], after[:, :position])
        assert not torch.allclose(before[:, position], after[:, position])


def test_every_token_sees_the_first(tiny: Config) -> None:
    model = scrambled(tiny)
    tokens = torch.randint(11, (1, 16))
    changed = tokens.clone()
    changed[0, 0] = (changed[0, 0] + 1) % 11
    assert (model(tokens) - model(changed)).abs().amax(-1).min() > 1e-6


def test_a_token_enters_with_the_one_before_it(tiny: Config) -> None:
    model = scrambled(tiny)
    for layer in model.layers:
        torch.nn.init.zeros_(layer.attention.out.weight)  # pyright: ignore
        torch.nn.init.zeros_(layer.mlp.out.weight)  # pyright: ignore
    scores = model(torch.tensor([[7, 3, 0, 7, 3, 3]]))[0]
    torch.testing.assert_close(scores[1], scores[4])  # 3 after 7
    assert not torch.allclose(scores[4], scores[5])  # 3 after 3
    assert not torch.allclose(scores[0], scores[3])  # nothing is before the first


@pytest.mark.parametrize("prefill", [1, 5, 16])
def test_cache_gives_what_reading_again_gives(tiny: Config, prefill: int) -> None:
    model = scrambled(tiny)
    tokens = torch.randint(11, (1, 16))
    cache = Cache(model)
    parts = [model(tokens[:, :prefill], cache)]
    parts += [model(tokens[:, i : i + 1], cache) for i in range(prefill, 16)]
    assert cache.length == 16
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_rotation_keeps_length_and_depends_on_distance(size: int) -> None:
    rotation = rotations(10, size)
    x, y = torch.randn(1, 1, 1, size), torch.randn(1, 1, 1, size)
    xs = rotate(x.expand(1, 10, 1, size), rotation)
    ys = rotate(y.expand(1, 10, 1, size), rotation)
    torch.testing.assert_close(xs.norm(dim=-1), x.norm(dim=-1).expand(1, 10, 1))
    near = (xs[0, 5] * ys[0, 3]).sum()
    torch.testing.assert_close((xs[0, 9] * ys[0, 7]).sum(), near, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 20), (2, 20, 8)])
def test_orthogonalized_matrices_have_singular_values_near_1(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
    assert values.min() > 0.5
    assert values.max() < 1.3


HARD = {
    "rank 1": lambda: torch.randn(4, 64, 1) @ torch.randn(4, 1, 172),
    "rank 4": lambda: (
        torch.randn(4, 64, 4) @ torch.randn(4, 4, 172) + 0.01 * torch.randn(4, 64, 172)
    ),
    "orthogonal": lambda: torch.linalg.svd(torch.randn(4, 64, 172), full_matrices=False)[2],
    "wide spectrum": lambda: (
        torch.linalg.qr(torch.randn(4, 64, 64))[0]
        * torch.logspace(0, -2.5, 64)
        @ torch.linalg.qr(torch.randn(4, 172, 64))[0].mT
    ),
    "tall": lambda: torch.randn(4, 172, 64),
    "zero": lambda: torch.zeros(4, 64, 172),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize(
    ("dtype", "least", "low", "high"),
    [(torch.float32, 0.003, 0.79, 1.21), (torch.bfloat16, 0.004, 0.75, 1.25)],
)
def test_orthogonalizes_what_would_grow_without_bound(
    name: str, dtype: torch.dtype, least: float, low: float, high: float
) -> None:
    torch.manual_seed(0)
    matrices = HARD[name]()
    before = torch.linalg.svdvals(matrices)
    counts = before > least * matrices.norm(dim=(-2, -1))[:, None]
    for way in (orthogonalize, orthogonalize_with_torch):
        result = way(1000 * matrices, dtype)
        assert result.dtype == torch.float32
        after = torch.linalg.svdvals(result)
        assert after.max() < high
        assert ((after > low) | ~counts).all()


def test_rows_of_a_step_are_divided_by_how_large_they_were_of_late() -> None:
    torch.manual_seed(0)
    matrices = [nn.Parameter(torch.randn(12, 6)) for _ in range(2)]
    muon = Muon(matrices, lr=torch.tensor(0.1), weight_decay=0.0, dtype=torch.float32)
    mean, sizes = torch.zeros(2, 12, 6), torch.zeros(2, 12, 1)
    for _ in range(3):
        before = torch.stack(list(matrices)).detach().clone()
        gradients = torch.randn(2, 12, 6) * torch.logspace(0, -2, 12)[:, None]
        gradients[1, :4] = 0  # rows that nothing reaches stay where they are
        for matrix, gradient in zip(matrices, gradients, strict=True):
            matrix.grad = gradient
        muon.step()
        mean = MOMENTUM * mean + (1 - MOMENTUM) * gradients
        step = orthogonalize((1 - MOMENTUM) * gradients + MOMENTUM * mean)
        sizes = EMA_DECAY * sizes + (1 - EMA_DECAY) * step.square().mean(-1, keepdim=True)
        even = step / (sizes.sqrt() + 1e-12)
        even *= step.norm(dim=(1, 2), keepdim=True) / even.norm(dim=(1, 2), keepdim=True)
        taken = before - torch.stack(list(matrices)).detach()
        torch.testing.assert_close(taken, 0.1 * 2**0.5 * even, rtol=1e-3, atol=1e-5)
    assert taken[1, :4].abs().max() == 0


def test_each_quintic_is_the_best_for_what_the_last_one_leaves() -> None:
    """Found again as a linear program: the least e with |1 - p(x)| <= e on a grid."""
    low, high = 0.003, 1.0
    for quintic in QUINTICS:
        x = np.geomspace(low, high, 1000)
        powers = np.stack((x, x**3, x**5), 1)
        sides = np.hstack((np.vstack((powers, -powers)), -np.ones((2000, 1))))
        limits = np.concatenate((np.ones(1000), -np.ones(1000)))
        ends = [(None, None)] * 3 + [(0, None)]
        found = scipy.optimize.linprog([0, 0, 0, 1], sides, limits, bounds=ends).x[:3]
        np.testing.assert_allclose(quintic, found, rtol=5e-3)
        values = powers @ np.array(quintic)
        low, high = values.min(), values.max()
    assert (low, high) == pytest.approx((0.8, 1.2), abs=0.01)


def test_accumulation_gives_the_update_of_the_large_batch(tiny: Config) -> None:
    windows = torch.randint(11, (8, 17))
    results = []
    for config in (
        replace(tiny, batch_size=8, dropout=0.0),
        replace(tiny, batch_size=2, gradient_accumulation=4, dropout=0.0),
    ):
        train_step = TrainStep(11, config, torch.device("cpu"))
        for _ in range(3):
            loss, norm = train_step.step(windows, 1e-3)
        results.append((loss, norm, train_step.model.layers[0].attention.query.weight))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_the_norm_is_logged_unclipped_and_0_does_not_clip(tiny: Config) -> None:
    windows = torch.randint(11, (4, 17))
    norms, clipped = [], []
    for clip in (0.0, 1e-3, 1e3):
        train_step = TrainStep(11, replace(tiny, gradient_clip=clip), torch.device("cpu"))
        norms.append(train_step.step(windows, 1e-3)[1])
        gradients = [p.grad for p in train_step.model.parameters() if p.grad is not None]
        clipped.append(float(nn.utils.get_total_norm(gradients)))
    assert norms[0] > 1e-2
    assert norms[0] == norms[1] == norms[2]
    assert clipped == pytest.approx([float(norms[0]), 1e-3, float(norms[0])], rel=1e-3)


def test_weight_decay_and_beta2_are_those_asked_for(tiny: Config) -> None:
    """Without a gradient a matrix shrinks by decay alone; the rest is moved as by torch's Adam."""
    config = replace(tiny, weight_decay=0.25, beta2=0.9, gradient_clip=0.0, dropout=0.0)
    train_step = TrainStep(11, config, torch.device("cpu"))
    matrix, embedding = (
        train_step.model.layers[0].attention.query.weight,
        train_step.model.embedding,
    )
    before = matrix.detach().clone()
    peer = nn.Parameter(embedding.weight.detach().clone())
    rate = 0.01
    torchs = torch.optim.Adam([peer], lr=rate * ADAM_SCALE, betas=(0.9, 0.9))
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        for parameter in train_step.model.parameters():
            parameter.grad = torch.randn_like(parameter) if parameter.ndim == 2 else None
        matrix.grad = torch.zeros_like(matrix)
        assert embedding.weight.grad is not None
        peer.grad = embedding.weight.grad.clone()
        train_step.optimizers.set_learning_rate(rate)
        train_step.optimizers.step()
        torchs.step()
    torch.testing.assert_close(matrix, before * (1 - rate * MUON_SCALE * 0.25) ** 3)
    torch.testing.assert_close(embedding.weight, peer)


def test_attention_dropout_acts_by_itself(tiny: Config) -> None:
    model = Transformer(11, replace(tiny, dropout=0.0, attention_dropout=0.5))
    tokens = torch.randint(11, (2, 16))
    for weights in (model.head.weight, *(layer.attention.out.weight for layer in model.layers)):
        nn.init.normal_(weights)  # they begin as nothing
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_mixed_precision_goes_with_dropout(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_bfloat16", lambda: True)  # if need be, emulated
    config = replace(tiny, mixed_precision=True, dropout=0.3, attention_dropout=0.1)
    train_step = TrainStep(11, config, pick_device("cpu"))
    windows = torch.randint(11, (4, 17))
    losses = [train_step.step(windows, 1e-3)[0].item() for _ in range(60)]
    assert train_step.precision == torch.bfloat16
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("odd", [math.inf, math.nan])
def test_a_gradient_that_overflows_in_float16_is_a_step_not_taken(
    clip: float, odd: float, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (device, learning):
        monkeypatch.setattr(module, "precision", lambda *_: torch.float16)
    config = replace(tiny, mixed_precision=True, gradient_clip=clip)
    train_step = TrainStep(11, config, torch.device("cpu"))
    assert train_step.scaler.is_enabled()
    windows = torch.randint(11, (4, 17))
    first = float(train_step.step(windows, 1e-3)[0])
    scale = train_step.scaler.get_scale()
    before = {name: w.detach().clone() for name, w in train_step.model.named_parameters()}
    matrix = train_step.model.layers[0].attention.query.weight
    overflow = matrix.register_hook(lambda gradient: torch.full_like(gradient, odd))
    train_step.step(windows, 1e-3)
    overflow.remove()
    for name, weight in train_step.model.named_parameters():
        assert torch.equal(weight, before[name]), name
    assert train_step.scaler.get_scale() == scale / 2
    losses = [float(train_step.step(windows, 1e-3)[0]) for _ in range(30)]
    assert losses[-1] < 0.9 * first


@pytest.mark.parametrize("mixed", [False, True])
def test_a_batch_can_be_learnt_by_heart(
    tiny: Config, mixed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "has_bfloat16", lambda: True)  # if need be, emulated
    train_step = TrainStep(
        11, replace(tiny, mixed_precision=mixed, dropout=0.0), pick_device("cpu")
    )
    windows = torch.randint(11, (4, 17))
    first = float(train_step.step(windows, 1e-3)[0])
    for _ in range(150):
        loss, _ = train_step.step(windows, 1e-3)
    assert first == pytest.approx(math.log(11), rel=1e-3)
    assert float(loss) < 0.3 * first
    assert all(weight.dtype == torch.float32 for weight in train_step.model.parameters())


def test_dropout_acts_in_training_alone(tiny: Config) -> None:
    model = scrambled(replace(tiny, dropout=0.5, attention_dropout=0.5))
    tokens = torch.randint(11, (1, 16))
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    assert not torch.equal(model(tokens), model(tokens))


@pytest.mark.parametrize("shape", [(16, 2), (128, 6), (96, 1)])
def test_weights_are_counted_without_a_model(shape: tuple[int, int], tiny: Config) -> None:
    config = replace(tiny, model_dim=shape[0], num_layers=shape[1])
    model = Transformer(11, config)
    assert parameter_count(config, 11) == sum(weights.numel() for weights in model.parameters())
