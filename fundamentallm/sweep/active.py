"""A trial in progress, as its worker sees it."""

from __future__ import annotations

from dataclasses import dataclass, field

from fundamentallm.sweep.records import Run
from fundamentallm.sweep.workers import Trial


@dataclass
class Active:
    """A trial in progress on this machine."""

    run: Run
    trial: Trial
    slot: int
    began: float
    history: dict[int, float] = field(default_factory=dict)
    """The metric by step."""
    evaluations: int = 0
    """Heard of in this attempt."""
    heard_of: bool = False
    lost: bool = False
