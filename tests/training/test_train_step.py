"""One update of the weights."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from fundamentallm.config.hyperparameters import Config
from fundamentallm.machine import device
from fundamentallm.machine.device import pick_device
from fundamentallm.training import train_step as learning
from fundamentallm.training.train_step import TrainStep


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


def test_mixed_precision_learns_with_dropout(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_bfloat16", lambda: True)  # if need be, emulated
    config = replace(tiny, mixed_precision=True, dropout=0.3, attention_dropout=0.1)
    train_step = TrainStep(11, config, pick_device("cpu"))
    windows = torch.randint(11, (4, 17))
    losses = [train_step.step(windows, 1e-3)[0].item() for _ in range(60)]
    assert train_step.precision == torch.bfloat16
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("odd", [math.inf, math.nan])
def test_a_gradient_that_overflows_in_float16_skips_the_step(
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
def test_a_batch_can_be_memorized(
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
