"""Dropout that costs little on a CPU: by kernels.c where it is there; else by fewer draws."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fundamentallm.model.native import call, usable_for

WORD = 1 << 16
LOWEST = -(1 << 63)


def drop(x: Tensor, rate: float) -> Tensor:
    """`x`, of any shape, with a share `rate` of its elements dropped and the rest scaled up."""
    if not rate:
        return x
    if x.dtype == torch.float32 and usable_for(x):
        return _Dropped.apply(x, rate)  # pyright: ignore
    return x * keep_factors(*x.shape, rate=rate).to(x.dtype) if is_cheap(x) else F.dropout(x, rate)


def add_dropped(x: Tensor, branch: Tensor, rate: float) -> Tensor:
    """`x` plus what is left of `branch`, of the same shape, where a share `rate` is dropped."""
    if not rate:
        return x + branch
    if is_cheap(x):
        return torch.addcmul(x, branch, keep_factors(*x.shape, rate=rate))
    return x + F.dropout(branch, rate)


def keep_factors(*shape: int, rate: float) -> Tensor:
    """What to multiply `shape` by so that a share `rate` is dropped: 0, or what keeps the mean.

    Each element has 16 random bits of its own, four to a draw of 64, from torch's generator: four
    to five times as fast as torch's dropout, which draws 64 bits for each.
    """
    count = math.prod(shape)
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(LOWEST, None)
    words = draws.view(torch.int16)[:count].view(shape)
    dropped, scale = rounded(rate)
    kept = words >= dropped - WORD // 2
    return kept.to(torch.float32).mul_(scale)


def rounded(rate: float) -> tuple[int, float]:
    """How many of 2 ** 16 words drop their element, and the factor of the rest that fits this."""
    dropped = min(round(rate * WORD), WORD - 1)
    return dropped, WORD / (WORD - dropped)


def is_cheap(x: Tensor) -> bool:
    """Whether `keep_factors` is the way for `x`, of any shape: on a CPU, and not compiled.

    A GPU's and a compiler's own dropout is as good.
    """
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def new_seed() -> Tensor:
    """A seed for kernels.c, (1,), from torch's generator."""
    return torch.empty(1, dtype=torch.int64).random_(LOWEST, None)


class _Dropped(torch.autograd.Function):
    """kernels.c. What was dropped is made again, of the same seed, on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        seed = new_seed()
        ctx.save_for_backward(seed)
        ctx.rate = rate
        return _dropout(x, seed, rate)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None]:
        (seed,) = ctx.saved_tensors
        return _dropout(gradients[0], seed, ctx.rate), None


def _dropout(x: Tensor, seed: Tensor, rate: float) -> Tensor:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    call("dropout", x.contiguous(), y, seed, *rounded(rate), y.numel())
    return y
