"""What this machine has: cores, memory, GPUs. Torch is not asked, for it takes seconds to load."""

from __future__ import annotations

import math
import os
from pathlib import Path


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus(device: str) -> list[str]:
    """GPUs that trials may share out, as CUDA_VISIBLE_DEVICES names them."""
    if device not in ("auto", "cuda"):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [str(i) for i in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))]


def free_gb() -> float:
    """Memory that new processes could have here; of a container, what it allows."""
    pages = os.sysconf("SC_AVPHYS_PAGES") if hasattr(os, "sysconf") else 0
    free = pages * os.sysconf("SC_PAGE_SIZE") / 1e9 if pages else math.inf
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":") for line in file)
        free = int(fields["MemAvailable"].split()[0]) * 1024 / 1e9
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            free = min(free, int(file.read()) / 1e9)
    except (OSError, KeyError, ValueError):
        pass
    return free


def own_memory_gb(pid: int) -> float:
    """The most memory that a process has had, less its part of what it shares; 0 if unknown.

    Processes forked from one server share torch itself, and mapped tokens.
    """
    try:
        kilobytes: dict[str, int] = {}
        for name in ("status", "smaps_rollup"):
            file = Path("/proc") / str(pid) / name
            for line in file.read_text("ascii", "replace").splitlines():
                key, _, value = line.partition(":")
                if value.endswith(" kB"):
                    kilobytes[key] = int(value.split()[0])
        grown = kilobytes["VmHWM"] - kilobytes["VmRSS"]
        return (grown + kilobytes["Pss"]) * 1024 / 1e9
    except (OSError, KeyError, ValueError):
        return 0.0
