"""Where a run stands, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    status: str
    """`done`, `interrupted`, or `diverged` (its loss stopped being finite)."""
    stopped_by: str
    """`epochs`, `max_steps`, `max_minutes`, `early_stopping`, who asked it to stop, or what
    diverged."""
    step: int
    """Optimizer steps done."""
    best_val_loss: float
    """Least validation loss, nats a token; before any, a uniform guess's: ln(vocabulary size)."""
    best_step: int
    """The step that reached it; 0 before any."""
    val_loss: float
    """The last validation loss, or as above."""


@dataclass
class Progress:
    """Where a run stands, apart from weights and generators; part of the checkpoint."""

    best_val_loss: float
    val_loss: float
    step: int = 0
    best_step: int = 0
    evaluations_since_best: int = 0
    sampled_step: int = 0
    seconds: float = 0.0
    """How long the run has taken, over all its parts."""
    grad_norm: float = 0.0
    """Of the last step that was measured, before clipping."""
    scored_step: int = -1
    """The step at which `val_loss` was measured; -1 in checkpoints of before it was noted."""
    evaluating: bool = False
    """Whether the run was stopped between a step and its evaluation."""
    threads: int = 0
    """Of the CPU, and kept: sums are in another order with another number of them."""
    compiled: bool = False
    """Decided at the start, and kept, as above."""
    losses: list[float] = field(default_factory=list)
    """Training losses since the last row of metrics."""
    row_seconds: float = 0.0
    """How long their steps took."""
