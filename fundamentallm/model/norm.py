"""RMSNorm and SwiGLU, by kernels.c in one pass over memory if available, else by torch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fundamentallm.model.native import call, usable_for

EPSILON = float(torch.finfo(torch.float32).eps)


def norm(x: Tensor) -> Tensor:
    """Scale the last dimension of any shape to a root mean square of 1: RMSNorm, no weights."""
    if x.dtype == torch.float32 and usable_for(x):
        return _Norm.apply(x.contiguous())  # pyright: ignore
    return F.rms_norm(x, x.shape[-1:], eps=EPSILON)


def swiglu(x: Tensor) -> Tensor:
    """Return silu(gate) * up, (..., F), where `x`, (..., 2 F), holds gate and up."""
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y, scale = torch.empty_like(x), x.new_empty(x.shape[:-1])
        call("norm_forward", x, y, scale, EPSILON, scale.numel(), x.shape[-1])
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> Tensor:
        y, scale = ctx.saved_tensors
        dy, dx = gradients[0].contiguous(), torch.empty_like(y)
        call("norm_backward", y, scale, dy, dx, scale.numel(), y.shape[-1])
        return dx
