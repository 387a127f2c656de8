"""Dropout that costs little on a CPU."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WORD = 1 << 16
LOWEST = -(1 << 63)


def keep_factors(*shape: int, rate: float) -> Tensor:
    """What to multiply `shape` by so that a share `rate` is dropped: 0, or what keeps the mean.

    Each element has 16 random bits of its own, four to a draw of 64, from torch's generator: four
    to five times as fast as torch's dropout, which draws 64 bits for each. The rate is rounded
    to a multiple of 2 ** -16, and the factor fits the rounded rate.
    """
    count = math.prod(shape)
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(LOWEST, None)
    words = draws.view(torch.int16)[:count].view(shape)
    dropped = min(round(rate * WORD), WORD - 1)
    kept = words >= dropped - WORD // 2
    return kept.to(torch.float32).mul_(WORD / (WORD - dropped))


def is_cheap(x: Tensor) -> bool:
    """Whether `keep_factors` is the way for `x`, of any shape: on a CPU, and not compiled.

    A GPU's and a compiler's own dropout is as good.
    """
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def drop(x: Tensor, rate: float) -> Tensor:
    """`x`, of any shape, with a share `rate` of its elements dropped and the rest scaled up."""
    if not rate:
        return x
    if is_cheap(x):
        return x * keep_factors(*x.shape, rate=rate).to(x.dtype)
    return F.dropout(x, rate)


def add_dropped(x: Tensor, branch: Tensor, rate: float, factors: Tensor | None) -> Tensor:
    """`x` plus what is left of `branch`, of one shape; by `factors`, where they have been drawn."""
    if factors is not None:
        return torch.addcmul(x, branch, factors)
    return x + (F.dropout(branch, rate) if rate else branch)
