"""Muon and Adam."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import nn

from fundamentallm.config.hyperparameters import Config
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
def test_hard_matrices_are_orthogonalized_within_bounds(
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


def test_rows_of_a_step_are_divided_by_their_recent_size() -> None:
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


def test_each_quintic_is_optimal_for_the_range_of_the_previous_one() -> None:
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


def test_weight_decay_and_beta2_act_as_in_torch(tiny: Config) -> None:
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
