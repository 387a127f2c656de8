"""Isolate a run from global state of torch: random generators, default dtype and threads."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fundamentallm.config.hyperparameters import Config
from fundamentallm.machine.device import float32_by_default
from fundamentallm.model.threads import suits_kernels, threads
from fundamentallm.training.stored_tensors import StoredTensorError, check_same

MERSENNE_TWISTER = 624
"""Numbers in the table of torch's generator on a CPU."""
_one_run = threading.RLock()


@contextmanager
def run_alone(config: Config, device: torch.device, count: int = 0) -> Iterator[None]:
    """Give one run torch's generators, default dtype and threads, and restore them afterwards.

    A run in another thread waits meanwhile: two runs that draw from the same generators would
    change each other's results.
    """
    generators = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with _one_run, generators, float32_by_default(), threads(count, suits_kernels(config, device)):
        yield


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return the state of the generators that dropout draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Restore a `random_state`; generators of other devices keep their own.

    Raises:
        StoredTensorError: A tensor is not the state of its generator.
    """
    check_random_state(state)
    torch.set_rng_state(state["cpu"])
    try:
        if device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], device)
        if device.type == "mps" and "mps" in state:
            torch.mps.set_rng_state(state["mps"])
    except (RuntimeError, TypeError):
        raise StoredTensorError(
            f"random: {device.type} is not the state of its generator"
        ) from None


def check_random_state(state: object) -> None:
    """Check a `random_state` from a file, for the CPU's generator.

    Torch accepts a position and a count of remaining draws that together lead beyond its table.

    Raises:
        StoredTensorError: The state would read beyond the table.
    """
    own = {"cpu": torch.Generator().get_state()}
    cpu = state.get("cpu") if isinstance(state, dict) else None
    check_same({"cpu": cpu}, own, "random")
    assert isinstance(cpu, torch.Tensor)
    left, _, place = struct.unpack_from("=iiQ", cpu.numpy().tobytes(), 8)
    if not (0 < left <= MERSENNE_TWISTER and left + place <= MERSENNE_TWISTER + 1):
        raise StoredTensorError("random: cpu is not the state of its generator")
    try:
        torch.Generator().set_state(cpu)
    except RuntimeError:
        raise StoredTensorError("random: cpu is not the state of its generator") from None
