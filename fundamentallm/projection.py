"""Matrix products with what surrounds them: a norm or a gate before, dropout and the stream after.

By kernels.c where it is there, which does all of it on what is in the cache; else by torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fundamentallm.dropout import add_dropped, new_seed, rounded
from fundamentallm.kernels import call, usable_for
from fundamentallm.pointwise import EPSILON, norm, swiglu

FEW_TOKENS = 64
"""For fewer, joining or reordering the weights would cost more than it saves."""

Before = Callable[[Tensor], Tensor]
CODES: dict[Before | None, int] = {None: 0, norm: 1, swiglu: 2}
"""How kernels.c calls what comes before."""


def project(
    x: Tensor,
    *weights: Tensor,
    before: Before | None = None,
    onto: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """What matrices of (O, K) make of `before(x)`, (..., K), joined along the last dimension.

    The matrices are apart because Muon treats each by itself.

    Args:
        x: (..., K), or (..., 2 K) before `swiglu`.
        weights: (O, K) each, the O may differ.
        before: `norm`, `swiglu` or nothing.
        onto: What the product is added to, of the result's shape.
        dropout: Share of the product that is dropped before it is added.

    Returns:
        (..., sum of O).
    """
    few = x.shape[:-1].numel() < FEW_TOKENS
    if not few and suits_kernel(x, *weights):
        return _Projected.apply(x, joined(weights), onto, CODES[before], dropout)  # pyright: ignore
    x = x if before is None else before(x)
    if few:
        y = torch.cat([F.linear(x, weight) for weight in weights], -1)
    else:
        y = F.linear(x, joined(weights))
    return y if onto is None else add_dropped(onto, y, dropout)


def joined(weights: tuple[Tensor, ...]) -> Tensor:
    """Matrices of (O, K) below each other."""
    return weights[0] if len(weights) == 1 else torch.cat(weights)


def suits_kernel(*tensors: Tensor) -> bool:
    """Whether kernels.c should multiply these, of any shape: float32, on a CPU, no autocast."""
    plain = all(each.dtype == torch.float32 and usable_for(each) for each in tensors)
    return plain and not torch.is_autocast_enabled("cpu")


class _Projected(torch.autograd.Function):
    """kernels.c, forward and backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, onto: Tensor | None, before: int, dropout: float
    ) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        y = x.new_empty(*x.shape[:-1], len(weight))
        seed = new_seed() if onto is not None and dropout else None
        ctx.rest = (*rounded(dropout if seed is not None else 0), before, EPSILON)
        base = 0 if onto is None else onto.contiguous()
        shape = (x.shape[:-1].numel(), weight.shape[1], len(weight))
        call("project_forward", x, weight, base, y, pointer(seed), *ctx.rest, *shape)
        ctx.save_for_backward(x, weight, seed)
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        x, weight, seed = ctx.saved_tensors
        dy = gradients[0].contiguous()
        dx, dweight = torch.empty_like(x), torch.empty_like(weight)
        shape = (x.shape[:-1].numel(), weight.shape[1], len(weight))
        call("project_backward", x, weight, dy, dx, dweight, pointer(seed), *ctx.rest, *shape)
        return dx, dweight, dy if ctx.needs_input_grad[2] else None, None, None


def pointer(seed: Tensor | None) -> Tensor | int:
    """A seed, (1,), as `call` takes it."""
    return 0 if seed is None else seed
