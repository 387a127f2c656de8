"""Coordinate check: at one learning rate, steps move a wide model as far as a narrow one.

Yang et al., "Tensor Programs V", arXiv 2203.03466, appendix D.1.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch

from fundamentallm import Config
from fundamentallm.training.train_step import TrainStep

WIDTHS = (32, 64, 128, 256)
VOCABULARY, LENGTH, BATCH, STEPS, SUCCESSORS = 64, 32, 8, 8, 4


def windows(seed: int) -> torch.Tensor:
    """Draw sequences, (BATCH, LENGTH + 1), in which each token has a few successors."""
    draw = torch.Generator().manual_seed(0)
    successors = torch.randint(VOCABULARY, (VOCABULARY, SUCCESSORS), generator=draw)
    draw.manual_seed(seed)
    tokens = [torch.randint(VOCABULARY, (BATCH,), generator=draw)]
    for _ in range(LENGTH):
        choice = torch.randint(SUCCESSORS, (BATCH,), generator=draw)
        tokens.append(successors[tokens[-1], choice])
    return torch.stack(tokens, 1)


@cache
def changes(width: int) -> dict[str, float]:
    """Return the size of every layer's output and of the logits after a few steps.

    Both are 0 before the first step.
    """
    config = Config(
        model_dim=width, num_layers=2, num_heads=width // 16, max_seq_len=LENGTH,
        batch_size=BATCH, dropout=0.0, learning_rate=1e-3,
    )  # fmt: skip
    step = TrainStep(VOCABULARY, config, torch.device("cpu"))
    for number in range(STEPS):
        step.step(windows(number + 1), config.learning_rate)
    found: dict[str, float] = {}
    for name, module in step.model.named_modules():
        if name.endswith(("attention", "mlp")):
            module.register_forward_hook(
                lambda _, inputs, output, name=name: found.update({name: rms(output - inputs[0])})
            )
    with torch.no_grad():
        found["logits"] = rms(step.model(windows(0)[:, :-1]))
    return found


def rms(x: torch.Tensor) -> float:
    return x.square().mean().sqrt().item()


@pytest.mark.parametrize(
    "part", ["layers.0.attention", "layers.0.mlp", "layers.1.attention", "layers.1.mlp"]
)
def test_layers_add_as_much_at_every_width(part: str) -> None:
    sizes = [changes(width)[part] for width in WIDTHS]
    assert max(sizes) < 1.6 * min(sizes), sizes


def test_logits_grow_no_faster_than_the_width() -> None:
    """Adam's step of the head has a fixed size a weight, and a logit sums over the width."""
    sizes = [changes(width)["logits"] / width for width in WIDTHS]
    assert max(sizes) < 1.7 * min(sizes), sizes
