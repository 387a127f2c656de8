"""How many trials a worker runs side by side, from what the first of them show.

On a CPU one trial a core is best, with one thread each, for as long as memory holds: the first
trial starts alone, and when it shows what it needs, the others follow. A GPU is seldom filled by
one small model: trials are added, one more on each, while all of them together get faster.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fundamentallm.machine.cores_and_memory import free_gb, own_memory_gb

FIRST_ROW_SECONDS = 20.0  # seconds that others wait for the first trial's first row
ROOM = 0.85  # of the free memory, for other programs have needs too
ROWS = 3  # of each trial, before a number of trials is judged
GAIN = 1.1  # all together must get faster by as much, or one more is not worth its memory


@dataclass(frozen=True)
class Resources:
    """What this machine gives to the sweep."""

    workers: int
    """The most trials side by side."""
    threads: int
    """Of each."""
    device: str = "auto"
    gpus: Sequence[str] = ()
    """Shared out among trials; empty where they find their device themselves."""
    fixed: bool = True
    """Whether exactly `workers` are wanted, whatever they show."""


@dataclass
class Concurrency:
    """`size` trials may run now."""

    means: Resources
    say: Callable[[str], None]
    free: float = field(default_factory=free_gb)
    """Gigabytes, before the first trial."""

    def __post_init__(self) -> None:
        self.settled = self.means.fixed or self.means.workers == 1
        self.size = self.means.workers if self.settled else max(1, len(self.means.gpus))
        self.began = math.inf
        self.memory = 0.0
        self.rows: dict[int, int] = {}
        self.speeds: dict[int, float] = {}
        self.totals: dict[int, float] = {}

    def started(self, slot: int) -> None:
        """A trial has begun."""
        self.began = min(self.began, time.monotonic())
        self.rows.pop(slot, None)
        self.speeds.pop(slot, None)

    def wait_no_longer(self) -> None:
        """See whether the first trial takes too long to say anything."""
        if (
            not self.settled
            and not self.means.gpus
            and time.monotonic() - self.began > FIRST_ROW_SECONDS
        ):
            self._settle_by_memory()

    def heard(self, slot: int, pid: int, metrics: Mapping[str, float]) -> None:
        """A trial logged a row."""
        if self.means.fixed or self.means.workers == 1:
            return
        if self.means.gpus:
            self._count(slot, metrics.get("perf/tokens_per_second", 0.0))
            return
        memory = own_memory_gb(pid)
        if not self.settled or memory > 1.2 * self.memory:
            self.memory = max(self.memory, memory)
            self._settle_by_memory()

    def ended(self, slot: int) -> None:
        """A trial is over; perhaps without a row."""
        self.rows.pop(slot, None)
        self.speeds.pop(slot, None)
        if not self.settled and not self.means.gpus:
            self._settle_by_memory()

    def _settle_by_memory(self) -> None:
        most, before = self.means.workers, self.size if self.settled else 0
        self.size, self.settled = fitting(self.memory, self.free, most), True
        if self.size != before:
            needs = f": a run takes {self.memory:.1f} GB of {self.free:.1f}" if self.memory else ""
            fewer = f", not {most}" if self.size < most else ""
            self.say(f"{_runs(self.size)} at a time{fewer}{needs}")

    def _count(self, slot: int, speed: float) -> None:
        self.rows[slot] = self.rows.get(slot, 0) + 1
        self.speeds[slot] = speed
        full = len(self.rows) == self.size and min(self.rows.values()) >= ROWS
        if self.settled or not full:
            return
        self.totals[self.size] = sum(self.speeds.values())
        self.rows.clear()
        a_step = len(self.means.gpus)
        before = self.totals.get(self.size - a_step)
        if before is not None and self.totals[self.size] < GAIN * before:
            self.settled = True
            self.size -= a_step
        elif self.size + a_step > self.means.workers:
            self.settled = True
        else:
            self.size += a_step
        if self.settled:
            found = "; ".join(f"{n}: {total:,.0f}" for n, total in self.totals.items())
            self.say(f"{_runs(self.size)} at a time; tokens a second by their number: {found}")


def fitting(memory: float, free: float, most: int) -> int:
    """How many trials that take `memory` go side by side into what is `free`, both in GB."""
    return max(1, min(most, int(ROOM * free / memory))) if memory else most


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"
