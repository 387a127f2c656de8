"""A trial that runs on this machine, as its worker sees it."""

from __future__ import annotations

from dataclasses import dataclass, field

from fundamentallm.sweep.engine.executor import StartedTrial
from fundamentallm.sweep.store.records import Run


@dataclass
class RunningTrial:
    """A trial that runs on this machine."""

    run: Run
    process: StartedTrial
    slot: int
    started_at: float
    """Time of `time.monotonic`."""
    history: dict[int, float] = field(default_factory=dict)
    """Values of the metric by step."""
    evaluations: int = 0
    """Rows with a validation loss that this trial sent."""
    has_rows: bool = False
    is_lost: bool = False
