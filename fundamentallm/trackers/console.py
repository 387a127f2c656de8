"""Console tracker: a line for each evaluation, and between them a bar, or a line a minute."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from tqdm import tqdm

from fundamentallm.files.samples import Sample
from fundamentallm.metrics import duration_text, score_text
from fundamentallm.printable import fit_for
from fundamentallm.trackers.base import Number

COLUMNS: Mapping[str, Callable[[float], str]] = {
    "epoch": "epoch {:.2f}".format,
    "train_loss": lambda loss: f"train_loss {score_text(loss)}",
    "val_loss": lambda loss: f"val_loss {score_text(loss)}",
    "val_perplexity": lambda perplexity: f"perplexity {score_text(perplexity)}",
    "optim/learning_rate": "lr {:.1e}".format,
    "perf/tokens_per_second": "{:,.0f} tokens/s".format,
}
"""Metrics of a line and their formats; a row may lack some."""
LINE_SECONDS = 60.0
"""Time without a line after which one shows the progress, if there is no bar."""


class ConsoleTracker:
    """A `Tracker` that prints lines to stdout and, on a terminal, a bar to stderr."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Set up the tracker; `clock` returns the time in seconds."""
        self.clock = clock
        self.started_at = self.printed_at = clock()
        self.first_step = 0
        self.most_seconds = math.inf
        """Training time after which the run ends whatever its step."""
        self.bar: tqdm | None = None  # pyright: ignore[reportMissingTypeArgument]
        self.closed = ""
        """Reason why stdout cannot be written, e.g. a closed pipe or a full disk; "" if it can."""

    def start(
        self,
        settings: Mapping[str, object],
        *,
        total_steps: int,
        step: int,
        facts: Mapping[str, object],
    ) -> None:
        """Show the bar, and the step from which a run resumes."""
        self.started_at = self.printed_at = self.clock()
        self.first_step = step
        minutes = settings.get("max_minutes")
        self.most_seconds = 60 * minutes if isinstance(minutes, float) and minutes else math.inf
        self.bar = tqdm(
            total=total_steps,
            initial=step,
            unit="step",
            dynamic_ncols=True,
            disable=sys.stderr is None or not sys.stderr.isatty(),
        )
        if step:
            self.print(f"resuming after step {step:,} of {total_steps:,}")

    def set_total(self, total_steps: int) -> None:
        """Set the end of the bar."""
        if self.bar is not None:
            self.bar.total = total_steps

    def log(self, metrics: Mapping[str, Number], *, step: int) -> None:
        """Move the bar; print a line if the model was scored, or if none came for a minute."""
        if self.bar is None:
            return
        if "train_loss" in metrics:
            self.bar.set_postfix_str(
                f"train_loss {score_text(metrics['train_loss'])}", refresh=False
            )
        self.bar.update(step - self.bar.n)
        is_late = self.bar.disable and self.clock() - self.printed_at >= LINE_SECONDS
        if "val_loss" in metrics:
            self.print("  ".join(self._parts(metrics, step, self.bar.total)))
        elif is_late:
            left = self._time_left(step, self.bar.total)
            self.print("  ".join([*self._parts(metrics, step, self.bar.total), left]))

    def _parts(self, metrics: Mapping[str, Number], step: int, total_steps: int) -> list[str]:
        """Return the step and the metrics for a line."""
        parts = [form(metrics[name]) for name, form in COLUMNS.items() if name in metrics]
        return [f"step {step:>{len(str(total_steps))}}/{total_steps}", *parts]

    def _time_left(self, step: int, total_steps: int) -> str:
        """Return the time left, by the mean time of a step so far."""
        elapsed = self.clock() - self.started_at
        by_steps = elapsed / (step - self.first_step) * (total_steps - step)
        return f"about {duration_text(max(0.0, min(by_steps, self.most_seconds - elapsed)))} left"

    def log_samples(self, samples: Sequence[Sample], *, step: int) -> None:
        """Print samples, with a bar at the left of each line."""
        for sample in samples:
            text = fit_for(sys.stdout, sample.prompt + sample.text)
            self.print("\n".join(f"    | {line}" for line in text.split("\n")))

    def finish(self, summary: Mapping[str, object]) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()

    def print(self, text: str) -> None:
        """Print a line, or lines, unless stdout is closed."""
        self.printed_at = self.clock()
        if self.closed or sys.stdout is None:  # None: closed before Python started
            return
        try:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()
        except OSError as error:
            pipe = isinstance(error, BrokenPipeError)
            self.closed = "a closed pipe" if pipe else f"stdout ({error.strerror})"
            # The rest of the buffer would fail again, with a traceback, as Python exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
