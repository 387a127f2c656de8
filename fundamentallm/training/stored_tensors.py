"""Check tensors from a file before use: native code trusts their shape and dtype.

Torch's fused optimizer and its generators access memory by shape, without bounds checks.
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
    """A tensor in a file does not fit the model."""


def check_stored(content: object, size: int) -> None:
    """Check that all tensors in `content`, however nested, are plain and take at most `size` bytes.

    Raises:
        StoredTensorError: A tensor is on another device, not contiguous or of another class, or
            they claim more memory than the file holds.
    """
    total = 0
    for tensor in _tensors(content):
        plain = type(tensor) is Tensor and tensor.layout == torch.strided and tensor.is_cpu
        if not (plain and tensor.is_contiguous() and not tensor.is_quantized):
            raise StoredTensorError("it has a tensor that is not plain memory")
        total += tensor.numel() * tensor.element_size()
    if total > size:
        raise StoredTensorError(f"its tensors take {total:,} bytes, and it has {size:,}")


def check_same(tensors: object, expected: Mapping[Any, Tensor], what: str) -> None:
    """Check that `tensors` has the names of `expected`, with the same shapes and dtypes.

    Raises:
        StoredTensorError: They differ; the message begins with `what`.
    """
    if not isinstance(tensors, Mapping) or tensors.keys() != expected.keys():
        raise StoredTensorError(f"{what}: other tensors than this version's model has")
    for name, like in expected.items():
        tensor = tensors[name]
        if not isinstance(tensor, Tensor):
            raise StoredTensorError(f"{what}: {name} is not a tensor")
        if tensor.shape != like.shape or tensor.dtype != like.dtype:
            raise StoredTensorError(
                f"{what}: {name} is {_description(tensor)} instead of {_description(like)}"
            )


@contextmanager
def shapes_only() -> Iterator[None]:
    """Create tensors without memory, to get their shapes."""
    with torch.device("meta"), _SkipNormal():
        yield


class _SkipNormal(TorchFunctionMode):
    """Skip `normal_`: without memory it imports torch's compiler, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.normal_, torch.nn.init.normal_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _tensors(content: object) -> Iterator[Tensor]:
    seen: set[int] = set()  # visit repeated or recursive objects once
    left = [content]
    while left:
        each = left.pop()
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, Mapping | list | tuple | set) and id(each) not in seen:
            seen.add(id(each))
            left += [*each, *each.values()] if isinstance(each, Mapping) else each


def _description(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
