"""Threads of a model's computation: torch's, or those of kernels.c."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fundamentallm.config.hyperparameters import Config
from fundamentallm.machine.cores_and_memory import usable_cores
from fundamentallm.machine.device import precision
from fundamentallm.model.attention import WIDTHS
from fundamentallm.model.native import kernels, working_with


def suits_kernels(config: Config, device: torch.device) -> bool:
    """Return whether kernels.c does nearly all the work of such a model on `device`."""
    return (
        device.type == "cpu"
        and kernels() is not None
        and config.compile != "true"
        and not config.attention_dropout
        and config.model_dim // config.num_heads in WIDTHS
        and precision(device, config.mixed_precision) == torch.float32
    )


@contextmanager
def threads(count: int = 0, in_kernels: bool = False) -> Iterator[None]:
    """Compute with `count` threads if there are as many cores, else with the default number.

    With `in_kernels` only kernels.c uses them. Torch's remaining work is too short to gain from
    threads, which wait for each other and are slow on a busy machine.
    """
    before = torch.get_num_threads()
    number = count if 0 < count <= usable_cores() else min(before, usable_cores())
    torch.set_num_threads(1 if in_kernels else number)
    try:
        with working_with(number):
            yield
    finally:
        torch.set_num_threads(before)
