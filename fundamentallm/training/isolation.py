"""What torch has once in a process, kept apart for each run: generators, dtype and threads."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fundamentallm.config.hyperparameters import Config
from fundamentallm.machine.device import our_dtype
from fundamentallm.model.threads import suits_kernels, threads
from fundamentallm.training.stored_tensors import StoredTensorError, check_same

MERSENNE_TWISTER = 624
"""Numbers in the table of torch's generator on a CPU."""
_one_run = threading.RLock()


@contextmanager
def run_alone(config: Config, device: torch.device, count: int = 0) -> Iterator[None]:
    """Have for one run what torch has once in a process: its generators, dtype and threads.

    The caller's are as before in the end. A run in another thread waits until then: drawing from
    the same generators, each would change the other's results.
    """
    generators = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with _one_run, generators, our_dtype(), threads(count, suits_kernels(config, device)):
        yield


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of the generators that dropout draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Continue from `random_state`; a generator of another device keeps its own.

    Raises:
        StoredTensorError: It is no such state.
    """
    check_random_state(state)
    torch.set_rng_state(state["cpu"])
    try:
        if device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], device)
        if device.type == "mps" and "mps" in state:
            torch.mps.set_rng_state(state["mps"])
    except (RuntimeError, TypeError):
        raise StoredTensorError(f"random: {device.type} is no state of its generator") from None


def check_random_state(state: object) -> None:
    """See that a `random_state` from a file can be continued from, on a CPU.

    Torch lets pass a place and a number of draws left that together lead beyond its table.

    Raises:
        StoredTensorError: It cannot.
    """
    own = {"cpu": torch.Generator().get_state()}
    cpu = state.get("cpu") if isinstance(state, dict) else None
    check_same({"cpu": cpu}, own, "random")
    assert isinstance(cpu, torch.Tensor)
    left, _, place = struct.unpack_from("=iiQ", cpu.numpy().tobytes(), 8)
    if not (0 < left <= MERSENNE_TWISTER and left + place <= MERSENNE_TWISTER + 1):
        raise StoredTensorError("random: cpu is no state of its generator")
    try:
        torch.Generator().set_state(cpu)
    except RuntimeError:
        raise StoredTensorError("random: cpu is no state of its generator") from None
