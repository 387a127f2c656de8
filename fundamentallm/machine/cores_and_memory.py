"""Cores and memory of this machine, without torch, which takes seconds to load."""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None


def usable_cores(root: Path = Path("/")) -> int:
    """Return the cores that this process may use, within a container's or job's CPU quota.

    `root` is the folder that holds /proc and /sys.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return max(1, min([cores, *_cores_by_quota(root)]))


def threads_each(runs: int = 1) -> int:
    """Return the threads for each of `runs` concurrent runs: OMP_NUM_THREADS, or an equal share."""
    typed = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if typed.isdigit() and typed != "0":
        return int(typed)
    return max(1, usable_cores() // runs)


def busy_cores(root: Path = Path("/"), seconds: float = 0.1) -> float:
    """Measure how many of this machine's cores other programs use; 0 if unknown."""
    before = _core_seconds(root)
    time.sleep(seconds)
    busy, whole = (b - a for a, b in zip(before, _core_seconds(root), strict=True))
    return (os.cpu_count() or 1) * busy / whole if whole else 0.0


def _core_seconds(root: Path) -> tuple[int, int]:
    """Return the busy and the total time of all cores since boot, in ticks."""
    with suppress(OSError, ValueError):
        total = (root / "proc/stat").read_text("ascii").split("\n")[0].split()
        user, nice, system, idle, waiting, *rest = map(int, total[1:9])
        worked = user + nice + system + sum(rest)  # rest: interrupts and stolen time
        return worked, worked + idle + waiting
    return 0, 0


def busy_warning(root: Path = Path("/")) -> str:
    """Return a line if other programs leave a run fewer cores than it has threads."""
    threads, cores = min(threads_each(), usable_cores()), os.cpu_count() or 1
    if threads == 1:
        return ""
    others = busy_cores(root)
    if cores - others > threads - 0.5:
        return ""
    return (
        f"other programs use {others:.1f} of this machine's {cores} cores; the run will take longer"
    )


def free_gb(root: Path = Path("/")) -> float:
    """Return the memory available to new processes, within a container's or job's limit.

    `root` is the folder that holds /proc and /sys.
    """
    free = math.inf
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, KeyError, ValueError):
        lines = (root / "proc/meminfo").read_text("ascii").splitlines()
        fields = dict(line.split(":") for line in lines)
        free = int(fields["MemAvailable"].split()[0]) * 1024.0
    return min([free, *_left_by_limits(root)]) / 1e9


def free_each_gb(root: Path = Path("/")) -> float:
    """Return the memory available to one process, also within its own limits (`ulimit -d`, `-v`).

    `root` is the folder that holds /proc and /sys.
    """
    return min([free_gb(root), *_left_by_own_limits(root)])


def _left_by_own_limits(root: Path) -> Iterator[float]:
    """Yield the GB that each limit of this process leaves to it."""
    if resource is None:
        return
    for name, used in (("RLIMIT_DATA", "VmData"), ("RLIMIT_AS", "VmSize")):
        limit = resource.getrlimit(getattr(resource, name))[0]
        if limit != resource.RLIM_INFINITY:
            with suppress(OSError, KeyError, ValueError):
                lines = (root / "proc/self/status").read_text("ascii", "replace").splitlines()
                fields = dict(line.split(":", 1) for line in lines)
                yield max(0.0, limit - int(fields[used].split()[0]) * 1024.0) / 1e9


def _left_by_limits(root: Path) -> Iterator[float]:
    """Yield the bytes that each memory limit of this process leaves; cached files count as free."""
    for group, is_new in _control_groups(root, "memory"):
        names = ("memory.max", "memory.current")
        if not is_new:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        with suppress(OSError, ValueError):  # no such file; or "max", which is no limit
            limit, used = (int((group / name).read_text("ascii")) for name in names)
            counts = dict(x.split() for x in (group / "memory.stat").read_text().splitlines())
            kept = counts.get("total_inactive_file") or counts.get("inactive_file", 0)
            yield float(limit - used + int(kept))


def _cores_by_quota(root: Path) -> Iterator[int]:
    """Yield the cores that each CPU quota of this process is worth, rounded up."""
    for group, is_new in _control_groups(root, "cpu"):
        with suppress(OSError, ValueError, ZeroDivisionError):  # no such file; or "max"
            if is_new:
                quota, period = map(int, (group / "cpu.max").read_text("ascii").split())
            else:
                names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                quota, period = (int((group / name).read_text("ascii")) for name in names)
            if quota > 0:
                yield math.ceil(quota / period)


def _control_groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield the folders of this process's control groups, and whether each is of version 2.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html, and .../cgroup-v1/.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            yield folder, not controllers
            if folder == top:
                break


def own_memory_gb(pid: int) -> float:
    """Return a process's peak memory, counting shared memory proportionally; 0 if unknown.

    Processes forked from one server share torch and mapped tokens.
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


def group_memory_gb(group: int) -> float:
    """Return the sum of `own_memory_gb` over the processes of a process group; 0 if unknown."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            # The command may contain anything, so the fields are counted from its last bracket.
            fields = stat.read_text("utf-8", "replace").rpartition(")")[2].split()
            if int(fields[2]) == group:
                total += own_memory_gb(int(stat.parent.name))
    return total


def keep_freed_memory() -> None:
    """Have the C library (glibc) keep freed memory instead of returning it to the system.

    Every step allocates and frees the same blocks. The system fills returned pages with zeros,
    which costs up to a tenth of a step (docs/dev/performance.md).
    """
    trim_above, map_above = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with suppress(OSError, TypeError, AttributeError):  # another C library
        allocator = ctypes.CDLL(None)
        allocator.mallopt(map_above, 1 << 25)  # the largest that is allowed
        allocator.mallopt(trim_above, 2**31 - 1)
