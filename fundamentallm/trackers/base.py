"""Protocol of a tracker: what the training loop calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from fundamentallm.errors import FundamentallmError
from fundamentallm.files.samples import Sample

Number = int | float


class TrackerError(FundamentallmError):
    """The tracker cannot log at all, and the run would train for nothing without it."""


class Tracker(Protocol):
    """Receives a run's metrics and samples in the order of steps."""

    def start(
        self,
        settings: Mapping[str, object],
        *,
        total_steps: int,
        step: int,
        facts: Mapping[str, object],
    ) -> None:
        """Start a run of `total_steps` at `step`, which is above 0 if the run is resumed.

        `settings` are the contents of config.yaml: hyperparameters, and the text's name and hash.
        `facts` are more about the run, as in summary.json: parameters, device.

        Raises:
            TrackerError: It cannot log, and nobody wants the run without it.
        """

    def log(self, metrics: Mapping[str, Number], *, step: int) -> None:
        """Record metrics after `step` optimizer steps; docs/metrics.md lists their names."""

    def log_samples(self, samples: Sequence[Sample], *, step: int) -> None:
        """Record texts that the model wrote after `step` optimizer steps."""

    def finish(self, summary: Mapping[str, object]) -> None:
        """End the run, however it ended; `summary` is the content of summary.json."""


@runtime_checkable
class ProgressTracker(Tracker, Protocol):
    """A tracker that shows how much of the run is done."""

    def set_total(self, total_steps: int) -> None:
        """Note that the run ends after `total_steps` instead."""


@runtime_checkable
class RemoteTracker(Tracker, Protocol):
    """A tracker that sends the run to a service, which may be unreachable."""

    undelivered: str
    """Data that the service did not receive, in one line; "" if it has everything."""
