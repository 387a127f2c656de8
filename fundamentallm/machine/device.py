"""Where the numbers are crunched, and in what precision."""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from fundamentallm.errors import FundamentallmError
from fundamentallm.machine.cores_and_memory import free_gb

Device = torch.device


class DeviceError(FundamentallmError):
    """The device that was asked for is not there."""


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; `auto` takes CUDA before MPS before the CPU.

    Raises:
        DeviceError: This machine, or this build of torch, does not have it.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    there["cpu"] = True
    if name == "auto":
        name = next(kind for kind, found in there.items() if found)
    kind, _, index = name.partition(":")
    known = there.get(kind, False) and (kind == name or index.isdigit())
    if known and kind == "cuda" and index:
        known = int(index) < torch.cuda.device_count()
    if known and kind == "cuda":
        # float32 products on tensor cores, inputs rounded to 10 bits (TF32); else they lie idle.
        torch.set_float32_matmul_precision("high")
    if not known:
        found = ", ".join(kind for kind, found in there.items() if found)
        raise DeviceError(f"--device {name}: not on this machine; give auto or one of: {found}")
    return torch.device(name)


def precision(device: torch.device, mixed_precision: bool) -> torch.dtype:
    """What matrix products are computed in.

    With `mixed_precision`, bfloat16; float16 on a GPU that has no bfloat16; and float32 on a
    processor that has none, where it would be emulated, a hundred times slower.
    """
    if not mixed_precision or (device.type == "cpu" and not has_bfloat16()):
        return torch.float32
    if device.type == "cuda":
        with torch.cuda.device(device):  # else the first GPU would be asked
            has_it = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_it else torch.float16
    return torch.bfloat16


def computes_in_half(device: torch.device) -> bool:
    """Whether mixed precision is to be had there."""
    return precision(device, True) != torch.float32


def has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16."""
    if platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    there = torch.backends.mkldnn.is_available()
    return there and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocast(device: torch.device, mixed_precision: bool) -> AbstractContextManager[object]:
    """Matrix products in half precision, or nothing where that is off or not to be had."""
    dtype = precision(device, mixed_precision)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def free_memory_gb(device: torch.device) -> float:
    """What is left for a model, in units of 10^9 bytes; infinite where nobody can tell."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        try:
            return (torch.cuda.mem_get_info(device)[0] + kept) / 1e9
        except RuntimeError as error:
            if is_out_of_memory(error):  # others have it all
                return 0.0
            raise
    return free_gb() if device.type == "cpu" else math.inf


def peak_memory_gb(device: torch.device) -> float:
    """Peak memory so far: of the GPU in use, else of this process; in units of 10^9 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if sys.platform == "win32":
        return 0.0  # Windows has no getrusage
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's or the processor's memory ran out; torch has a class for few of the ways."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("can't allocate memory", "out of memory", "_ALLOC_FAILED")  # a CPU's, mps's, cuBLAS's
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


@contextmanager
def our_dtype() -> Iterator[None]:
    """Make new tensors in float32, whatever the caller's default is: the seed decides, not that."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
