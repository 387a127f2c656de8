"""Budget of a tuning: a time, or the work of a number of full-length runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from fundamentallm.config.hyperparameters import Config
from fundamentallm.training.step_work import step_work

MULTIPLICATIONS_A_SECOND = 2e10
"""Speed of the machine that `NominalSpeed` assumes: about one core."""


class Speed(Protocol):
    """Time and memory that training takes on a machine; `Measurements` has those of this one."""

    @property
    def setup_seconds(self) -> float:
        """Time from the start of a trial until its first step."""
        ...

    def best_workers(self, config: Config) -> int:
        """Return how many runs at a time take the most steps a second in total."""
        ...

    def step_seconds(self, config: Config, workers: int) -> float:
        """Return the time of an optimizer step of a run while `workers` runs are in progress."""
        ...

    def scoring_seconds(self, config: Config, workers: int) -> float:
        """Return the time of an evaluation while `workers` runs are in progress."""
        ...

    def fits(self, config: Config) -> bool:
        """Return whether a run fits into memory."""
        ...


@dataclass(frozen=True)
class NominalSpeed:
    """Speed of an imaginary machine, by the multiplications of steps alone; runs share it.

    So a budget of runs buys the same steps wherever as many runs work at a time.
    """

    here: Speed
    """This machine, which says what fits and how many runs at a time are best."""
    setup_seconds = 0.0

    def best_workers(self, config: Config) -> int:
        """Return how many runs at a time are best here."""
        return self.here.best_workers(config)

    def step_seconds(self, config: Config, workers: int) -> float:
        """Return the time of a step while `workers` runs share the machine."""
        return workers * multiplications(config) / MULTIPLICATIONS_A_SECOND

    def scoring_seconds(self, config: Config, workers: int) -> float:
        """Return 0: a budget of runs counts training alone."""
        return 0.0

    def fits(self, config: Config) -> bool:
        """Return whether a run fits into memory here."""
        return self.here.fits(config)


def seconds_of_default_run(characters: int) -> float:
    """Return the nominal time of a run of the defaults on a training text of so many characters."""
    config = Config()
    steps = math.ceil(characters / config.tokens_per_step) * config.epochs
    return steps * multiplications(config) / MULTIPLICATIONS_A_SECOND


def multiplications(config: Config) -> float:
    """Return the multiplications of an optimizer step, without the head's."""
    work = step_work(config, vocabulary=0)
    return work.multiplications + work.orthogonalizing


@dataclass(frozen=True)
class Budget:
    """Limit of what a tuning spends: `minutes`, or the work of `runs` runs; the other is 0."""

    minutes: float = 0.0
    runs: float = 0.0

    @property
    def is_time(self) -> bool:
        """Return whether it is a time."""
        return self.minutes > 0

    @property
    def text(self) -> str:
        """Return the flags that give it."""
        if not self.is_time:
            return f"--runs {self.runs:g}"
        if self.minutes >= 60 and self.minutes % 30 == 0:
            return f"--hours {self.minutes / 60:g}"
        return f"--minutes {self.minutes:g}"

    def times(self, factor: float) -> Budget:
        """Return a budget `factor` times as large."""
        return Budget(self.minutes * factor, self.runs * factor)
