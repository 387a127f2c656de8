"""Modules that a program's script needs, imported for a warm start.

The fork server of a sweep imports this module, and nothing else does so first. It runs no line of
the program. A module is left out if its import fails, starts a thread of Python or opens a GPU,
since no forked process could use what it did; the server then starts over without it. Threads of
native libraries, such as OpenBLAS, end properly in a fork: all of them know DataLoader's workers.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fundamentallm.sweep.program.script import PRELOAD, Import, installed_imports

LEFT_OUT = "FUNDAMENTALLM_PRELOAD_NOT"
"""Variable with the modules to leave out."""
FORK_SAFE_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""Variable with which torch looks for a GPU without opening it."""
GPUS = ("/dev/nvidia-uvm", "/dev/kfd")
MAIN_PROCESS = multiprocessing.current_process()
"""Main process for multiprocessing; its class is not public."""


def _preload(script: str) -> frozenset[int]:
    """Import what a script needs; return the file descriptors that this opened, to stay open."""
    before = open_descriptors()
    check = os.environ.get(FORK_SAFE_CHECK)
    os.environ[FORK_SAFE_CHECK] = "1"
    left_out = os.environ.get(LEFT_OUT, "").split(",")
    imports = [each for each in installed_imports(script) if each.module not in left_out]
    with _hidden_output():
        unusable = next((each for each in imports if not _imported(each)), None)
    if unusable is not None:
        os.environ[LEFT_OUT] = ",".join([*left_out, unusable.module])
        os.execv(sys.executable, sys.orig_argv)
    del os.environ[PRELOAD], os.environ[FORK_SAFE_CHECK]
    os.environ.pop(LEFT_OUT, None)
    if check is not None:
        os.environ[FORK_SAFE_CHECK] = check
    gc.collect()
    gc.freeze()  # so that collections in forked processes copy no page
    return open_descriptors() - before


def open_descriptors() -> frozenset[int]:
    """Return the open file descriptors of this process, on Linux."""
    return frozenset(int(name) for name in os.listdir("/proc/self/fd"))


def _imported(each: Import) -> bool:
    """Import modules; return whether forked processes can use them."""
    try:
        each.run()
    except BaseException:  # anything, SystemExit too; the program will show it
        return False
    return threading.active_count() == 1 and not any(map(_is_gpu, open_descriptors()))


def _is_gpu(descriptor: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith(GPUS)
    except OSError:  # the one that listed them
        return False


@contextmanager
def _hidden_output() -> Iterator[None]:
    """Drop what modules print when they are imported."""
    stored = [os.dup(number) for number in (1, 2)]
    with open(os.devnull, "wb") as null:
        for number in (1, 2):
            os.dup2(null.fileno(), number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in zip((1, 2), stored, strict=True):
            os.dup2(copy, number)
            os.close(copy)


DESCRIPTORS = _preload(os.environ[PRELOAD]) if PRELOAD in os.environ else frozenset[int]()
