"""Tensors from a file are checked before use: code that runs on them trusts their shape and dtype.

Torch's fused optimizer and its generators read and write where a shape says, not where memory ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fundamentallm.errors import FundamentallmError


class StoredTensorError(FundamentallmError):
    """A tensor in a file is not what the model takes for granted."""


def check_stored(content: object, size: int) -> None:
    """See that all tensors in `content`, however nested, are plain and take at most `size` bytes.

    Raises:
        StoredTensorError: One is on another device, not contiguous or of another class, or they
            promise more than the file holds.
    """
    total = 0
    for tensor in _tensors(content):
        plain = type(tensor) is Tensor and tensor.layout == torch.strided and tensor.is_cpu
        if not (plain and tensor.is_contiguous() and not tensor.is_quantized):
            raise StoredTensorError("a tensor in it is not plain memory")
        total += tensor.numel() * tensor.element_size()
    if total > size:
        raise StoredTensorError(f"its tensors take {total:,} bytes, and it has {size:,}")


def check_same(found: object, expected: Mapping[Any, Tensor], what: str) -> None:
    """See that `found` maps the names of `expected` to tensors of the same shape and dtype.

    Raises:
        StoredTensorError: One is missing, too many or another; the message begins with `what`.
    """
    if not isinstance(found, Mapping) or found.keys() != expected.keys():
        raise StoredTensorError(f"{what}: other tensors than this version's model has")
    for name, like in expected.items():
        tensor = found[name]
        if not isinstance(tensor, Tensor):
            raise StoredTensorError(f"{what}: {name} is no tensor")
        if tensor.shape != like.shape or tensor.dtype != like.dtype:
            raise StoredTensorError(f"{what}: {name} is {_shown(tensor)} instead of {_shown(like)}")


@contextmanager
def shapes_only() -> Iterator[None]:
    """Make tensors without memory, to learn their shapes."""
    with torch.device("meta"), _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    """Skips `normal_`, which imports torch's compiler for a tensor without memory: seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is torch.Tensor.normal_ else func(*args, **(kwargs or {}))


def _tensors(content: object) -> Iterator[Tensor]:
    seen: set[int] = set()  # what is in there a thousand times, or in itself, is looked at once
    left = [content]
    while left:
        each = left.pop()
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, Mapping | list | tuple | set) and id(each) not in seen:
            seen.add(id(each))
            left += [*each, *each.values()] if isinstance(each, Mapping) else each


def _shown(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
