"""A trial in progress, as its worker sees it."""

from __future__ import annotations

from dataclasses import dataclass, field

from fundamentallm.sweep.engine.trial_process import TrialProcess
from fundamentallm.sweep.store.records import Run


@dataclass
class RunningTrial:
    """A trial in progress on this machine."""

    run: Run
    trial: TrialProcess
    slot: int
    began: float
    history: dict[int, float] = field(default_factory=dict)
    """The metric by step."""
    evaluations: int = 0
    """Heard of in this attempt."""
    heard_of: bool = False
    lost: bool = False
