"""Progress of the trials that run here, and the time that a sweep has left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fundamentallm.status import FINISHED, OVER, RunStatus
from fundamentallm.sweep.engine.job import Row
from fundamentallm.sweep.store.records import Run, RunIndex


@dataclass
class TrialProgress:
    """Progress of a trial that runs here; times are of the view's clock."""

    run: Run
    started_at: float
    resumes: bool = False
    most_seconds: float = math.inf
    """Training time after which the trial ends whatever its step."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Last value of each metric."""
    step: int = 0
    total_steps: int = 0
    """Last step; 0 if it is unknown."""
    first_step: int = 0
    first_row_at: float = 0.0
    last_row_at: float = 0.0

    def add(self, row: Row, now: float) -> None:
        """Take in a row that was logged just now."""
        if not self.metrics:
            self.first_step, self.first_row_at = row.step, now
        self.metrics |= row.metrics
        self.step, self.total_steps, self.last_row_at = row.step, row.total_steps, now

    @property
    def pace(self) -> float | None:
        """Seconds of a step, evaluations included; None before the second row."""
        if self.step == self.first_step:
            return None
        return (self.last_row_at - self.first_row_at) / (self.step - self.first_step)

    def share(self, now: float) -> float | None:
        """Return the share of the trial that is done; None if its length is unknown."""
        if not (self.metrics and self.total_steps):
            return None
        by_time = (now - self.first_row_at) / self.most_seconds
        return min(1.0, max(self.step / self.total_steps, by_time))

    def seconds_left(self, now: float) -> float | None:
        """Return the time to its last step; None if it is unknown."""
        if not self.total_steps or self.pace is None:
            return None
        by_steps = self.pace * (self.total_steps - self.step) - (now - self.last_row_at)
        by_time = self.most_seconds - (now - self.first_row_at)
        return max(0.0, min(by_steps, by_time))

    def seconds_whole(self) -> float | None:
        """Return the time that the run takes from its first step; None if it is unknown."""
        if not self.total_steps or self.pace is None:
            return None
        return min(self.pace * self.total_steps, self.most_seconds)


def mean_seconds(runs: RunIndex, trials: Sequence[TrialProgress]) -> float | None:
    """Return the mean time of a run; None while nothing tells.

    It includes runs that were stopped early, for others will be too. A running trial counts with
    the time that it will have taken, so the mean does not jump when it ends.
    """
    planned = [seconds for each in trials if (seconds := each.seconds_whole()) is not None]
    count = runs.how_many(*FINISHED) + len(planned)
    return (runs.seconds + sum(planned)) / count if count else None


def seconds_left(
    runs: RunIndex, trials: Sequence[TrialProgress], to_start: float, now: float
) -> float | None:
    """Estimate the time until the last run ends, wherever it runs; None while nothing tells.

    Args:
        runs: All runs of the sweep.
        trials: Trials that run here.
        to_start: Number of runs that have not started or will be resumed; infinite if unknown.
        now: Time of the view's clock.
    """
    mean = mean_seconds(runs, trials)
    running = max(len(trials), runs.how_many(RunStatus.RUNNING))
    if mean is None or not running or math.isinf(to_start):
        return None
    lefts = [_left(each, mean, now) for each in trials]
    elsewhere = (running - len(trials)) * mean / 2  # on average half done
    work = sum(lefts) + elsewhere + to_start * mean
    return max(work / running, *lefts, 0.0)


def _left(trial: TrialProgress, mean: float, now: float) -> float:
    known = trial.seconds_left(now)
    return max(0.0, mean - (now - trial.started_at)) if known is None else known


def done_share(
    runs: RunIndex, trials: Mapping[int, TrialProgress], limit: int, now: float
) -> float:
    """Return the share of a sweep of `limit` runs that is done; trials count as far as they are."""
    shares = (each.share(now) or 0.0 for each in trials.values())
    return min(1.0, (runs.how_many(*OVER) + sum(shares)) / limit) if limit else 1.0
