"""Shared by the benchmarks: timing in turns, ratios with their spread, writing to the docs.

Machines are shared and noisy. So tasks are compared only if they took turns in one run, by the
ratio of their medians and the range over single rounds.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs/dev/performance.md"


def in_turns(
    tasks: Mapping[str, Callable[[], object]], rounds: int, warm: int = 1
) -> dict[str, list[float]]:
    """Return the seconds of each task in each round, after `warm` rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(warm + rounds):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if number >= warm:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def in_process(make: Callable[[], Callable[[], object]], threads: int) -> Callable[[], None]:
    """Return the task of `make` as a function that runs it in a process of its own.

    `make` must be a function of a module or a `partial` of one.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=_serve, args=(make, threads, theirs), daemon=True).start()
    ours.recv()  # wait until it is ready

    def task() -> None:
        ours.send(None)
        ours.recv()

    return task


def _serve(make: Callable[[], Callable[[], object]], threads: int, pipe: Any) -> None:
    import torch

    torch.set_num_threads(threads)
    task = make()
    with suppress(EOFError):  # the parent has ended
        while True:
            pipe.send(None)
            pipe.recv()
            task()


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the ratio of the medians, theirs to ours, with the range over single rounds."""
    each = [b / a for a, b in zip(ours, theirs, strict=True)]
    middle = statistics.median(theirs) / statistics.median(ours)
    return f"{middle:.2f} ({min(each):.2f}-{max(each):.2f})"


def seconds_since_start() -> float:
    """Return the seconds since this process started, before any import; Linux only."""
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    now = float(Path("/proc/uptime").read_text().split()[0])
    return now - started / os.sysconf("SC_CLK_TCK")


def machine() -> str:
    """Return date, processor and torch version for a caption."""
    import torch

    processor = (
        next(
            (
                line.split(":")[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            platform.processor(),
        )
        if Path("/proc/cpuinfo").exists()
        else platform.processor()
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    vectors = torch.backends.cpu.get_cpu_capability()
    today = datetime.date.today().isoformat()
    return f"{today}; {processor}, {cores} cores, {vectors}; torch {torch.__version__}"


def write_section(name: str, text: str, page: Path = PAGE) -> None:
    """Write `text` between the marks of section `name`."""
    content = page.read_text("utf-8")
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    if not marked.search(content):
        raise SystemExit(f"{page}: has no section {name}")
    page.write_text(marked.sub(lambda m: m[1] + text.rstrip() + "\n" + m[2], content), "utf-8")
