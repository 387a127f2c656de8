"""Matrix products fused with their surroundings: norm, gate, dropout and residual stream.

By kernels.c if available, which does all of it on data in the cache; else by torch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fundamentallm.model.dropout import add_dropped, new_seed, rounded
from fundamentallm.model.native import call, usable_for
from fundamentallm.model.norm import EPSILON, norm, swiglu

FEW_TOKENS = 64
"""Minimum tokens for which joining or reordering the weights saves time."""


def project(
    x: Tensor,
    *weights: Tensor,
    normed: bool = False,
    onto: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Multiply `x`, (..., K), by matrices (O, K), and join the products along the last dimension.

    The matrices are separate because Muon treats each by itself.

    Args:
        x: (..., K).
        weights: (O, K) each; the O may differ.
        normed: Whether to multiply `norm(x)` instead of `x`.
        onto: Tensor of the result's shape to add the product to.
        dropout: Fraction of the product to drop before adding it.

    Returns:
        (..., sum of O).

    Raises:
        ValueError: The shapes do not fit.
    """
    wide = sum(map(len, weights))
    check_fit(x, *weights)
    if onto is not None and onto.shape != (*x.shape[:-1], wide):
        raise ValueError(f"onto is {tuple(onto.shape)}; the product is {wide} wide")
    if suits_kernel(x, *weights, *(() if onto is None else (onto,))):
        return _Projected.apply(x, joined(weights), onto, normed, dropout)  # pyright: ignore
    x = norm(x) if normed else x
    if is_short(x):
        y = torch.cat([F.linear(x, weight) for weight in weights], -1)
    else:
        y = F.linear(x, joined(weights))
    return y if onto is None else add_dropped(onto, y, dropout)


def mlp(x: Tensor, gate: Tensor, up: Tensor, out: Tensor, dropout: float = 0.0) -> Tensor:
    """Add to `x`, (..., C), the product of `out` with SwiGLU of `gate` and `up` on `norm(x)`.

    Args:
        x: (..., C).
        gate: (H, C).
        up: (H, C).
        out: (C, H).
        dropout: Fraction of the added product to drop.

    Returns:
        (..., C).

    Raises:
        ValueError: The shapes do not fit.
    """
    check_fit(x, gate, up)
    if not gate.shape == up.shape == out.T.shape:
        raise ValueError("gate and up have one shape, and out has its transpose")
    if suits_kernel(x, gate, up, out):
        return _MLP.apply(x, joined((gate, up)), out, dropout)  # pyright: ignore
    hidden = project(x, gate, up, normed=True)
    return project(swiglu(hidden), out, onto=x, dropout=dropout)


def check_fit(x: Tensor, *weights: Tensor) -> None:
    """Check that matrices of (O, K) can multiply `x`, (..., K), since kernels.c does not.

    Raises:
        ValueError: The shapes do not fit.
    """
    for weight in weights:
        if weight.shape[1] != x.shape[-1] or not weight.numel():
            raise ValueError(f"{tuple(weight.shape)} cannot multiply {tuple(x.shape)}")


def joined(weights: tuple[Tensor, ...]) -> Tensor:
    """Concatenate matrices of (O, K) along O."""
    return weights[0] if len(weights) == 1 else torch.cat(weights)


def is_short(x: Tensor) -> bool:
    """Return whether `x`, (..., K), has few tokens."""
    return x.shape[:-1].numel() < FEW_TOKENS


def suits_kernel(x: Tensor, *others: Tensor) -> bool:
    """Return whether kernels.c supports `x`, (..., K), with these: on a CPU, all in float32."""
    plain = all(each.dtype == torch.float32 and usable_for(each) for each in (x, *others))
    return plain and not is_short(x) and not torch.is_autocast_enabled("cpu")


class _Projected(torch.autograd.Function):
    """kernels.c, forward and backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, onto: Tensor | None, normed: bool, dropout: float
    ) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        y = x.new_empty(*x.shape[:-1], len(weight))
        seed, *rates = chance(dropout if onto is not None else 0.0)
        ctx.rest = (*rates, normed, EPSILON, *sizes(x, weight))
        base = 0 if onto is None else onto.contiguous()
        call("project_forward", x, weight, base, y, seed, *ctx.rest)
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
        call("project_backward", x, weight, dy, dx, dweight, seed, *ctx.rest)
        return dx, dweight, dy if ctx.needs_input_grad[2] else None, None, None


class _MLP(torch.autograd.Function):
    """kernels.c, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w_in: Tensor, w_out: Tensor, dropout: float) -> Tensor:
        x, w_in, w_out = x.contiguous(), w_in.contiguous(), w_out.contiguous()
        y, hidden = torch.empty_like(x), x.new_empty(*x.shape[:-1], len(w_in))
        seed, *rates = chance(dropout)
        ctx.rest = (*rates, EPSILON, *sizes(x, w_out.T))
        call("mlp_forward", x, w_in, w_out, y, hidden, seed, *ctx.rest)
        ctx.save_for_backward(x, w_in, w_out, hidden, seed)
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        x, w_in, w_out, hidden, seed = ctx.saved_tensors
        dy = gradients[0].contiguous()
        dx, dw_in, dw_out = (torch.empty_like(each) for each in (x, w_in, w_out))
        call("mlp_backward", x, w_in, w_out, hidden, dy, dx, dw_in, dw_out, seed, *ctx.rest)
        return dx, dw_in, dw_out, None


def chance(dropout: float) -> tuple[Tensor, int, float]:
    """Return a seed, (1,), drawn if needed; how many of 2 ** 16 words drop; the others' factor."""
    seed = new_seed() if dropout else torch.zeros(1, dtype=torch.int64)
    return seed, *rounded(dropout)


def sizes(x: Tensor, weight: Tensor) -> tuple[int, int, int]:
    """Return the number of tokens in `x`, (..., K), then K and O of `weight`, (O, K)."""
    return x.shape[:-1].numel(), weight.shape[1], len(weight)
