"""Where a run stands, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from fundamentallm.metrics import score_text
from fundamentallm.status import RunStatus

ROUNDING = 1e-6  # nats
MOST_STEPS = 2**53


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    status: RunStatus
    """`done`, `interrupted`, or `diverged`: a loss was not finite, or none ever below a uniform
    guess's."""
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


LOG_EVERY = 10
"""Steps between rows of metrics; a row waits for the device, so there is none for every step."""


@dataclass
class TrainingState:
    """Where a run stands, apart from weights and generators; part of the checkpoint."""

    best_val_loss: float
    val_loss: float
    step: int = 0
    best_step: int = 0
    evaluations: int = 0
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
    train_loss: float = 0.0
    """Of the last row of metrics; 0 in checkpoints of before it was noted."""
    losses: list[float] = field(default_factory=list)
    """Training losses since the last row of metrics."""
    row_seconds: float = 0.0
    """How long their steps took."""

    @classmethod
    def of(cls, stored: Mapping[str, object]) -> TrainingState:
        """Where the run of a checkpoint stands.

        Raises:
            ValueError: A name is unknown or missing, or a value is of another kind.
        """
        kinds = {each.name: str(each.type) for each in fields(cls)}
        for name, value in stored.items():
            if not _is_of_kind(value, kinds.get(name, "")):
                raise ValueError(f"{name} is no part of where a run stands, or of another kind")
        try:
            return cls(**stored)  # pyright: ignore[reportArgumentType]
        except TypeError as error:
            raise ValueError(str(error)) from None

    @property
    def logged_step(self) -> int:
        """The step of the last row of metrics."""
        return self.step - len(self.losses)

    def missing_rows(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Which rows of metrics a run that stands here has written, and are not among `rows`."""
        known = {row["step"] for row in rows if row["step"] <= self.logged_step}
        due = {*range(LOG_EVERY, self.logged_step + 1, LOG_EVERY), self.logged_step} - {0}
        lost = sorted(due - known)
        if lost:
            first = max((step for step in known if step < lost[0]), default=0) + 1
            whole = not any(lost[0] < step < lost[-1] for step in known)
            return f"{'' if whole else 'some of '}the rows of steps {first:,} to {lost[-1]:,}"
        scored = self.evaluations - sum("val_loss" in row for row in rows)
        return f"{scored:,} of the rows with a val_loss" if scored > 0 else ""

    def worse_than(self, guess: float, warmup_steps: int) -> str:
        """Say that a run which has come to its end was never better than a uniform guess.

        Every run begins as one, so only steps that blew up keep it there. Not judged before the
        end, for a rate that falls may bring it back; nor by one evaluation, nor in the warm-up; nor
        if it has learned its training part, which the validation part may be unlike.

        Returns:
            "" if it was, or nothing can be said.
        """
        is_judged = self.evaluations > 1 and self.scored_step > warmup_steps
        if not is_judged or min(self.best_val_loss, self.train_loss) <= guess - ROUNDING:
            return ""
        return (
            f"val_loss is {score_text(self.val_loss)} at step {self.step} and was never below "
            f"{score_text(guess)}, that of a uniform guess"
        )


def _is_of_kind(value: object, kind: str) -> bool:
    if kind == "list[float]":
        return isinstance(value, list) and all(_is_of_kind(each, "float") for each in value)
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "float" and isinstance(value, float):
        return True
    return kind in ("int", "float") and type(value) is int and -1 <= value <= MOST_STEPS
