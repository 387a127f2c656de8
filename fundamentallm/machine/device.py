"""Devices, and the precision to compute in."""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from fundamentallm.errors import FundamentallmError
from fundamentallm.machine.cores_and_memory import free_each_gb

Device = torch.device


class DeviceError(FundamentallmError):
    """The requested device does not exist here."""


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called `name`; `auto` prefers CUDA, then MPS, then the CPU.

    Raises:
        DeviceError: This machine, or this build of torch, does not have the device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    available["cpu"] = True
    if name == "auto":
        name = next(kind for kind, is_there in available.items() if is_there)
    kind, _, index = name.partition(":")
    known = available.get(kind, False) and (kind == name or index.isdigit())
    if known and kind == "cuda" and index:
        known = int(index) < torch.cuda.device_count()
    if known and kind == "cuda":
        # Compute float32 products on tensor cores, with inputs rounded to 10 bits (TF32).
        torch.set_float32_matmul_precision("high")
    if not known:
        kinds = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise DeviceError(f"--device {name}: not on this machine; give auto or one of: {kinds}")
    return torch.device(name)


def precision(device: torch.device, mixed_precision: bool) -> torch.dtype:
    """Return the dtype of matrix products.

    With `mixed_precision` it is bfloat16, or float16 on a GPU without bfloat16. A processor without
    bfloat16 uses float32, since emulation is a hundred times slower.
    """
    if not mixed_precision or (device.type == "cpu" and not has_bfloat16()):
        return torch.float32
    if device.type == "cuda":
        with torch.cuda.device(device):  # the default is the first GPU
            has_it = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_it else torch.float16
    return torch.bfloat16


def computes_in_half(device: torch.device) -> bool:
    """Return whether the device supports mixed precision."""
    return precision(device, True) != torch.float32


def has_bfloat16() -> bool:
    """Return whether this processor multiplies in bfloat16."""
    if platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.backends.mkldnn.is_available() and bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def autocast(device: torch.device, mixed_precision: bool) -> AbstractContextManager[object]:
    """Return a context for matrix products in half precision; no effect if that is unavailable."""
    dtype = precision(device, mixed_precision)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def free_memory_gb(device: torch.device) -> float:
    """Return the memory left for a model, in units of 10^9 bytes; infinite if unknown."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        try:
            return (torch.cuda.mem_get_info(device)[0] + kept) / 1e9
        except RuntimeError as error:
            if is_out_of_memory(error):  # other processes use it all
                return 0.0
            raise
    return free_each_gb() if device.type == "cpu" else math.inf


def peak_memory_gb(device: torch.device) -> float:
    """Return the peak memory of the GPU in use, or else of this process, in 10^9 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if sys.platform == "win32":
        return 0.0  # Windows has no getrusage
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out; torch raises its own class in few of the cases."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("can't allocate memory", "out of memory", "_ALLOC_FAILED")  # CPU, MPS, cuBLAS
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Create tensors in float32, whatever the caller's default is, so that seeds reproduce runs."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
