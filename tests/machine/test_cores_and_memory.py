"""Cores and memory, as the system reports them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from fundamentallm.machine.cores_and_memory import (
    busy_cores,
    busy_warning,
    free_each_gb,
    free_gb,
    usable_cores,
)

GB = 10**9


V2 = ("memory.max", "memory.current", "inactive_file")


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def machine(root: Path, line: str, groups: dict[str, tuple[object, int, int]], v1: bool) -> Path:
    """A machine with 64 GB free; of each group what it may have, has, and has of kept files."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {64 * GB // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(line + "\n")
    for path, (limit, used, kept) in groups.items():
        folder = root / "sys/fs/cgroup" / ("memory" if v1 else "") / path
        folder.mkdir(parents=True, exist_ok=True)
        names = V1 if v1 else V2
        (folder / names[0]).write_text(f"{limit}\n")
        (folder / names[1]).write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 1\n{names[2]} {kept}\n")
    return root


@pytest.mark.parametrize(
    ("line", "groups", "v1", "free"),
    [
        ("0::/", {}, False, 64),
        ("0::/", {".": ("max", 3 * GB, 0)}, False, 64),
        ("0::/", {".": (8 * GB, 3 * GB, GB)}, False, 6),  # a container
        (  # a job of SLURM's, limited above the step
            "0::/slurm/job_1/step_0",
            {"slurm/job_1": (8 * GB, 2 * GB, 0), "slurm/job_1/step_0": ("max", GB, 0)},
            False,
            6,
        ),
        ("9:cpu,cpuacct:/a", {"a": (GB, 0, 0)}, True, 64),
        ("7:memory:/job", {"job": (5 * GB, GB, 0), ".": (9223372036854771712, GB, 0)}, True, 4),
        ("7:memory:/of/the/host", {".": (5 * GB, GB, 0)}, True, 4),  # a container
    ],
)
def test_free_memory_respects_limits(
    line: str, groups: dict[str, tuple[object, int, int]], v1: bool, free: float, tmp_path: Path
) -> None:
    assert free_gb(machine(tmp_path, line, groups, v1)) == pytest.approx(free, rel=1e-6)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what is used")
@pytest.mark.parametrize("limit", ["-d", "-v"])
def test_memory_of_a_process_respects_its_own_limits(limit: str) -> None:
    code = "from fundamentallm.machine.cores_and_memory import *; print(free_gb(), free_each_gb())"
    words = ["sh", "-c", f'ulimit {limit} 900000; exec "$@"', "sh", sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    free, each = map(float, done.stdout.split())
    assert 0.3 < each < min(0.9216, free)
    assert free_each_gb() <= free_gb() * 1.1


QUOTA, PERIOD = "cpu/a/cpu.cfs_quota_us", "cpu/a/cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("line", "files", "cores"),
    [
        ("0::/", {}, None),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/", {"cpu.max": "100000 100000"}, 1),
        ("0::/job/step", {"job/cpu.max": "50000 100000", "job/step/cpu.max": "max 100000"}, 1),
        ("4:cpu,cpuacct:/a", {QUOTA: "-1", PERIOD: "9"}, None),
        ("4:cpu,cpuacct:/a", {QUOTA: "9", PERIOD: "9"}, 1),
    ],
)  # fmt: skip
def test_usable_cores_respect_quotas(
    line: str, files: dict[str, str], cores: int | None, tmp_path: Path
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(line + "\n")
    for name, content in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content + "\n")
    assert usable_cores(tmp_path) == (cores or len(os.sched_getaffinity(0)))


def test_free_memory_of_this_machine_is_plausible() -> None:
    assert 0 < free_gb() < 1e6


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
@pytest.mark.parametrize("kept", [False, True])
def test_freed_memory_is_reused(kept: bool) -> None:
    code = """
import resource, sys
from fundamentallm.machine.cores_and_memory import keep_freed_memory

def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step(): return [b"x" * (1 << 21) for _ in range(5)]

if sys.argv[1] == "True": keep_freed_memory()
for _ in range(3): step()
before = faults()
for _ in range(10): step()
print((faults() - before) / 10)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(kept)], capture_output=True, text=True, check=True
    )
    assert (float(done.stdout) < 100) == kept  # of 2,560 pages of 4 kB


@pytest.mark.parametrize(
    ("worked", "busy"),
    [((0, 0, 0, 40), 0.0), ((20, 0, 0, 20), 4.0), ((10, 5, 5, 0), 8.0)],
)
def test_busy_cores_are_reported(
    worked: tuple[int, ...], busy: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run of 8 threads on 8 cores; `worked` is the growth of /proc/stat."""
    stat = tmp_path / "proc/stat"
    stat.parent.mkdir()
    lines = [
        " ".join(["cpu ", *(str(x + 700) for x in counts), "0 0 0 0 0 0"]) + "\ncpu0 1\n"
        for counts in ((0, 0, 0, 0), worked)
    ]
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("fundamentallm.machine.cores_and_memory.usable_cores", lambda: 8)
    monkeypatch.setattr("time.sleep", lambda seconds: stat.write_text(lines[1]))
    stat.write_text(lines[0])
    assert busy_cores(tmp_path) == busy
    for typed, expected in (("8", busy > 0.5), ("1", False)):
        stat.write_text(lines[0])
        monkeypatch.setenv("OMP_NUM_THREADS", typed)
        assert bool(busy_warning(tmp_path)) == expected
    stat.unlink()
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert busy_cores(tmp_path) == 0.0  # where there is no such file
