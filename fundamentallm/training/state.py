"""Training state of a run, and its result."""

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
    """Result of a run."""

    status: RunStatus
    """`done`, `interrupted`, or `diverged`: a loss was not finite, or never below that of a uniform
    prediction."""
    stopped_by: str
    """`epochs`, `max_steps`, `max_minutes`, `early_stopping`, the reason of a stop request, or what
    diverged."""
    step: int
    """Optimizer steps done."""
    best_val_loss: float
    """Lowest validation loss, in nats per token; ln(vocabulary size) before any."""
    best_step: int
    """Step with the lowest validation loss; 0 before any."""
    val_loss: float
    """Last validation loss; ln(vocabulary size) before any."""


LOG_EVERY = 10
"""Steps between rows of metrics; each row waits for the device."""


@dataclass
class TrainingState:
    """State of a run apart from weights and generators; part of the checkpoint."""

    best_val_loss: float
    val_loss: float
    step: int = 0
    best_step: int = 0
    evaluations: int = 0
    evaluations_since_best: int = 0
    sampled_step: int = 0
    seconds: float = 0.0
    """Training time so far, over all resumes."""
    grad_norm: float = 0.0
    """Gradient norm of the last measured step, before clipping."""
    scored_step: int = -1
    """Step at which `val_loss` was measured; -1 in checkpoints that lack it."""
    evaluating: bool = False
    """True if the run was stopped between a step and its evaluation."""
    threads: int = 0
    """Number of CPU threads, fixed for the run: it determines the order of sums. 0 before it is."""
    compiled: bool = False
    """True if the model is compiled, fixed for the run."""
    train_loss: float = 0.0
    """Training loss of the last row of metrics; 0 in checkpoints that lack it."""
    losses: list[float] = field(default_factory=list)
    """Training losses since the last row of metrics."""
    row_seconds: float = 0.0
    """Duration of those steps."""
    last_step: int = 0
    """Last step of the run, fixed when its decay began so that it ends in time; 0 if it is not."""
    reused_from: str = ""
    """Earlier run whose steps this one continues, e.g. `lr/run-0003`; "" without one."""
    reused_steps: int = 0
    reused_seconds: float = 0.0
    """Training time of the reused steps, which is part of `seconds`."""

    @classmethod
    def of(cls, stored: Mapping[str, object]) -> TrainingState:
        """Return the state that a checkpoint has stored.

        Raises:
            ValueError: A name is unknown or missing, or a value has another type.
        """
        types = {each.name: str(each.type) for each in fields(cls)}
        for name, value in stored.items():
            if not _has_type(value, types.get(name, "")):
                raise ValueError(f"{name} is not part of a training state, or has another type")
        try:
            return cls(**stored)  # pyright: ignore[reportArgumentType]
        except TypeError as error:
            raise ValueError(str(error)) from None

    @property
    def logged_step(self) -> int:
        """Step of the last row of metrics."""
        return self.step - len(self.losses)

    def missing_rows(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Name the rows of metrics that the run has written and `rows` lacks; "" if none."""
        known = {row["step"] for row in rows if row["step"] <= self.logged_step}
        due = {*range(LOG_EVERY, self.logged_step + 1, LOG_EVERY), self.logged_step} - {0}
        lost = sorted(due - known)
        if lost:
            first = max((step for step in known if step < lost[0]), default=0) + 1
            whole = not any(lost[0] < step < lost[-1] for step in known)
            return f"{'' if whole else 'some of '}the rows of steps {first:,} to {lost[-1]:,}"
        scored = self.evaluations - sum("val_loss" in row for row in rows)
        return f"{scored:,} of the rows with a val_loss" if scored > 0 else ""

    def never_better_than(self, guess: float, warmup_steps: int) -> str:
        """Return a reason if a finished run was never better than a uniform prediction, else "".

        Every run starts as one, so only steps that blew up keep it there. A run is not judged
        before its end, since a falling rate may bring it back; nor by a single evaluation; nor
        during warm-up; nor if it has learned its training part, which the validation part may not
        resemble.
        """
        is_judged = self.evaluations > 1 and self.scored_step > warmup_steps
        if not is_judged or min(self.best_val_loss, self.train_loss) <= guess - ROUNDING:
            return ""
        return (
            f"val_loss is {score_text(self.val_loss)} at step {self.step} and was never below "
            f"{score_text(guess)}, that of a uniform guess"
        )


def _has_type(value: object, name: str) -> bool:
    if name == "list[float]":
        return isinstance(value, list) and all(_has_type(each, "float") for each in value)
    if name in ("bool", "str"):
        return type(value).__name__ == name
    if name == "float" and isinstance(value, float):
        return True
    return name in ("int", "float") and type(value) is int and -1 <= value <= MOST_STEPS
