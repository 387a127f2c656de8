"""Number of trials that a worker runs in parallel, chosen from what the first ones show.

On a CPU, one single-threaded trial per core is fastest, as long as memory suffices. The first trial
starts alone; once it shows how much memory it needs, the others follow. One small model seldom
fills a GPU. Each GPU gets one more trial at a time, while their total speed rises.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fundamentallm.machine.cores_and_memory import free_gb
from fundamentallm.metrics import runs_text

FIRST_ROW_SECONDS = 20.0
"""Longest wait of the others for the first trial's first row."""
MEMORY_SHARE = 0.85
"""Share of the free memory that trials may use; the rest is for other programs."""
ROWS_PER_TRIAL = 3
"""Rows of each trial before a number of trials is judged."""
LEAST_SPEEDUP = 1.1
"""Factor by which total speed has to rise for one more trial per GPU."""


@dataclass(frozen=True)
class Resources:
    """Part of this machine that the sweep uses."""

    workers: int
    """Most trials in parallel."""
    threads: int
    """Threads of each trial."""
    device: str = "auto"
    gpus: Sequence[str] = ()
    """GPUs to divide among trials; empty where each trial finds its device itself."""
    fixed: bool = True
    """Run exactly `workers` trials, without adapting to memory or speed."""


@dataclass
class Concurrency:
    """Number of trials that may run now: `size`."""

    resources: Resources
    notify: Callable[[str], None]
    free: float = field(default_factory=free_gb)
    """Free memory before the first trial, in GB."""

    def __post_init__(self) -> None:
        self.settled = self.resources.fixed or self.resources.workers == 1
        self.size = self.resources.workers if self.settled else max(1, len(self.resources.gpus))
        self.started_at = math.inf
        self.memory = 0.0
        self.rows: dict[int, int] = {}
        self.speeds: dict[int, float] = {}
        self.totals: dict[int, float] = {}

    def started(self, slot: int) -> None:
        """Note that a trial started."""
        self.started_at = min(self.started_at, time.monotonic())
        self.rows.pop(slot, None)
        self.speeds.pop(slot, None)

    def check_first_row(self) -> None:
        """Stop waiting for the first trial's first row once it takes too long."""
        if (
            not self.settled
            and not self.resources.gpus
            and time.monotonic() - self.started_at > FIRST_ROW_SECONDS
        ):
            self._settle_by_memory()

    def row_logged(
        self, slot: int, metrics: Mapping[str, float], memory_gb: Callable[[], float]
    ) -> None:
        """Note that a trial logged a row; `memory_gb` returns the trial's peak memory."""
        if self.resources.fixed or self.resources.workers == 1:
            return
        if self.resources.gpus:
            self._add_speed(slot, metrics.get("perf/tokens_per_second", 0.0))
            return
        memory = memory_gb()
        if not self.settled or memory > 1.2 * self.memory:
            self.memory = max(self.memory, memory)
            self._settle_by_memory()

    def ended(self, slot: int) -> None:
        """Note that a trial ended, perhaps without a row."""
        self.rows.pop(slot, None)
        self.speeds.pop(slot, None)
        if not self.settled and not self.resources.gpus:
            self._settle_by_memory()

    def _settle_by_memory(self) -> None:
        most, before = self.resources.workers, self.size if self.settled else 0
        self.size, self.settled = fitting(self.memory, self.free, most), True
        if self.size != before:
            size = f"{self.memory:.1f}" if self.memory >= 0.05 else "under 0.1"
            needs = f": a run takes {size} GB of {self.free:.1f}" if self.memory else ""
            fewer = f", not {most}" if self.size < most else ""
            self.notify(f"{runs_text(self.size)} at a time{fewer}{needs}")

    def _add_speed(self, slot: int, speed: float) -> None:
        self.rows[slot] = self.rows.get(slot, 0) + 1
        self.speeds[slot] = speed
        is_measured = len(self.rows) == self.size and min(self.rows.values()) >= ROWS_PER_TRIAL
        if self.settled or not is_measured:
            return
        self.totals[self.size] = sum(self.speeds.values())
        self.rows.clear()
        step = len(self.resources.gpus)
        before = self.totals.get(self.size - step)
        if before is not None and self.totals[self.size] < LEAST_SPEEDUP * before:
            self.settled = True
            self.size -= step
        elif self.size + step > self.resources.workers:
            self.settled = True
        else:
            self.size += step
        if self.settled:
            found = "; ".join(f"{n}: {total:,.0f}" for n, total in self.totals.items())
            self.notify(
                f"{runs_text(self.size)} at a time; tokens per second by number of runs: {found}"
            )


def fitting(memory: float, free: float, most: int) -> int:
    """Return how many trials of `memory` GB each fit into `free` GB; at least 1."""
    return max(1, min(most, int(MEMORY_SHARE * free / memory))) if memory else most
