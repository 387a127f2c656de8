"""Dropout that is cheap on a CPU: by kernels.c if available, else by fewer random draws."""

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
    """Drop a fraction `rate` of the elements of `x`, any shape, and scale up the rest."""
    if not rate:
        return x
    if x.dtype == torch.float32 and usable_for(x):
        return _Dropped.apply(x, rate)  # pyright: ignore
    return x * keep_factors(*x.shape, rate=rate).to(x.dtype) if is_cheap(x) else F.dropout(x, rate)


def add_dropped(x: Tensor, branch: Tensor, rate: float) -> Tensor:
    """Add `branch`, of which a fraction `rate` is dropped, to `x` of the same shape."""
    if not rate:
        return x + branch
    if is_cheap(x):
        return torch.addcmul(x, branch, keep_factors(*x.shape, rate=rate))
    return x + F.dropout(branch, rate)


def keep_factors(*shape: int, rate: float) -> Tensor:
    """Return factors of `shape` that drop a fraction `rate`: 0, or a number that keeps the mean.

    Each element uses 16 random bits, four elements to a draw of 64 from torch's generator. That is
    four to five times as fast as torch's dropout, which draws 64 bits per element.
    """
    count = math.prod(shape)
    draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(LOWEST, None)
    words = draws.view(torch.int16)[:count].view(shape)
    dropped, scale = rounded(rate)
    kept = words >= dropped - WORD // 2
    return kept.to(torch.float32).mul_(scale)


def rounded(rate: float) -> tuple[int, float]:
    """Return how many of 2 ** 16 words drop their element, and the factor for the rest."""
    dropped = min(round(rate * WORD), WORD - 1)
    return dropped, WORD / (WORD - dropped)


def is_cheap(x: Tensor) -> bool:
    """Return whether to use `keep_factors` for `x`, any shape: on a CPU, not compiled.

    The dropout of GPUs and compiled models is as fast.
    """
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def new_seed() -> Tensor:
    """Draw a seed for kernels.c, (1,), from torch's generator."""
    return torch.empty(1, dtype=torch.int64).random_(LOWEST, None)


class _Dropped(torch.autograd.Function):
    """Dropout by kernels.c; the backward pass draws the same numbers again from the seed."""

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
