"""Rotary positions."""

from __future__ import annotations

import pytest
import torch

from fundamentallm.model.attention import rotate, rotations


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_rotation_keeps_length_and_depends_on_distance(size: int) -> None:
    rotation = rotations(10, size)
    x, y = torch.randn(1, 1, 1, size), torch.randn(1, 1, 1, size)
    xs = rotate(x.expand(1, 10, 1, size), rotation)
    ys = rotate(y.expand(1, 10, 1, size), rotation)
    torch.testing.assert_close(xs.norm(dim=-1), x.norm(dim=-1).expand(1, 10, 1))
    near = (xs[0, 5] * ys[0, 3]).sum()
    torch.testing.assert_close((xs[0, 9] * ys[0, 7]).sum(), near, rtol=1e-4, atol=1e-5)
