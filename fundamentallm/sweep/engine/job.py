"""A trial's job, and the messages between a worker and the process that does the job."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fundamentallm.status import RunStatus

if TYPE_CHECKING:  # a trial's process imports this file and has to start fast
    from fundamentallm.sweep.engine.trial_pipe import TrialPipe
    from fundamentallm.sweep.store.records import Run


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """Job for the process of a trial, which calls `begin` and enters the run's folder."""

    folder: Path
    """Absolute path of the run's folder, which exists."""
    identity: tuple[int, int] | None = None
    """Identity of the run's folder; a folder that replaces it is not entered."""
    threads: int
    visible_gpu: str | None = None
    """CUDA_VISIBLE_DEVICES, if GPUs are divided among trials."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables to set for the trial."""
    hang_timeout: float
    """Least time without a step, in seconds, after which the trial counts as hung."""

    @property
    def in_wandb_run(self) -> bool:
        """Return whether the trial is a run on W&B, other than one the sweep is started in."""
        return False

    @abstractmethod
    def begin(self) -> Callable[[TrialPipe], Outcome]:
        """Return the function that does the job in the current folder, which is the run's.

        Whatever must precede the first thread of the process is done at once. The function raises
        DiskError if the disk is full, or the folder is gone.

        Raises:
            OSError: The system allows no more processes or files.
        """


class JobMaker(Protocol):
    """Makes the jobs of a sweep on this machine."""

    def job(self, run: Run, slot: int) -> Job:
        """Return the job of a run in a slot.

        Raises:
            SweepError, ConfigError: The run cannot start with these values.
            DiskError: The run's folder is gone.
        """
        ...

    def resumes(self, run: Run) -> bool:
        """Return whether the run would resume from where an earlier trial came."""
        ...

    def why_restarted(self, run: Run) -> str:
        """Return why a run with earlier rows starts from its beginning; "" if that is normal."""
        ...


@dataclass(frozen=True)
class Started:
    """Start of another program by a trial."""

    group: int
    """Id of its process group."""


@dataclass(frozen=True)
class Heartbeat:
    """Sign of life that a trial sends every few seconds."""


@dataclass(frozen=True)
class Row:
    """Row of metrics."""

    step: int
    total_steps: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """End of a trial, after its files are written."""

    status: RunStatus
    """`done`, `diverged`, `interrupted`, `impossible`, `failed`, `hung` or `oom`."""
    stopped_by: str
    """Reason, as in summary.json; for `failed`, the error."""
    disk: bool = False
    """True if it stopped because the disk cannot be written."""
    warning: str = ""
    """Lines for the person who watches, e.g. that W&B did not receive everything."""


@dataclass(frozen=True)
class Stop:
    """Request of the worker to save and end."""

    reason: str
