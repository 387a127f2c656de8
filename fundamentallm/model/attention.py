"""Causal attention with rotary positions: by our kernel on a CPU if it pays, else by torch's.

Shapes: B sequences, T tokens in each, H heads of size D.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fundamentallm.model.native import call, usable_for

WIDTHS = (8, 16, 32, 64)
"""Head sizes that kernels.c supports."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def suits_kernel(qkv: Tensor) -> bool:
    """Return whether our kernel suits (B, T, 3, H, D): on a CPU, small heads, not in float64."""
    return qkv.shape[-1] in WIDTHS and qkv.dtype in DTYPES and usable_for(qkv)


def attend(qkv: Tensor, rotation: Tensor, dropout: float = 0.0) -> Tensor:
    """Attend from every token to itself and those before it.

    Args:
        qkv: Queries, keys and values, (B, T, 3, H, D).
        rotation: Cosines and sines of the tokens' positions, (2, T, 1, D // 2).
        dropout: Fraction of attention weights to drop.

    Returns:
        (B, T, H, D).

    Raises:
        ValueError: The numbers of positions and tokens differ.
    """
    if rotation.shape[1] != qkv.shape[1]:
        raise ValueError(f"{qkv.shape[1]} tokens and {rotation.shape[1]} positions")
    if not dropout and suits_kernel(qkv):
        # In float32 also under mixed precision, as torch's kernel accumulates.
        return _Attention.apply(qkv.float().contiguous(), rotation).to(qkv.dtype)  # pyright: ignore
    query, key, value = qkv.unbind(2)
    return attend_with_torch(rotate(query, rotation), rotate(key, rotation), value, dropout)


def attend_with_torch(query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
    """Attend with torch, from rotated queries (B, T, H, D) to keys (B, T + earlier ones, H, D)."""
    heads_first = (each.transpose(1, 2) for each in (query, key, value))
    # A single token may attend to all keys.
    y = F.scaled_dot_product_attention(
        *heads_first, dropout_p=dropout, is_causal=query.shape[1] > 1
    )
    return y.transpose(1, 2)


def rotations(length: int, size: int) -> Tensor:
    """Return cosines and sines of rotary positions, (2, length, 1, size // 2).

    Pair i of a head turns by `10000 ** (-2 i / size)` radians per position.
    Source: Su et al., "RoFormer", 2021.
    """
    pairs = size // 2
    speeds = 10000.0 ** (-torch.arange(pairs) / max(pairs, 1))
    angles = torch.outer(torch.arange(length), speeds)[:, None]
    return torch.stack((angles.cos(), angles.sin()))


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the pairs of each head, (B, T, H, D), by its token's position; an odd last stays."""
    cos, sin = rotation
    pairs = cos.shape[-1]
    a, b = x[..., :pairs], x[..., pairs : 2 * pairs]
    turned = torch.cat((a * cos - b * sin, a * sin + b * cos, x[..., 2 * pairs :]), -1)
    return turned.to(x.dtype)  # float32 angles, also in mixed precision


class _Attention(torch.autograd.Function):
    """Attention by kernels.c, forward and backward."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, rotation: Tensor) -> Tensor:
        batch, length, _, heads, size = qkv.shape
        cos, sin = rotation.float().contiguous()
        y = qkv.new_empty(batch, length, heads, size)
        lse = qkv.new_empty(batch, heads, length)  # log of the sum of each row's weights
        call("attention_forward", qkv, cos, sin, y, lse, batch, length, heads, size)
        ctx.save_for_backward(qkv, cos, sin, y, lse)
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None]:
        qkv, cos, sin, y, lse = ctx.saved_tensors
        dy, dqkv = gradients[0].contiguous(), torch.empty_like(qkv)
        call("attention_backward", qkv, cos, sin, y, lse, dy, dqkv, *y.shape)
        return dqkv, None
