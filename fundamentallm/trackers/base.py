"""What the training loop tells, and to whom: all that a tracker must offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from fundamentallm.files.samples import Sample

Number = int | float


class Tracker(Protocol):
    """Told of a run as it happens, in order of the step; never asked for anything."""

    def start(self, settings: Mapping[str, object], *, total_steps: int, step: int) -> None:
        """The run begins at `step` (above 0 when resumed), having planned `total_steps`.

        `settings` is what config.yaml holds: the hyperparameters and the text's name and hash.
        """

    def log(self, metrics: Mapping[str, Number], *, step: int) -> None:
        """`step` optimizer steps are done; names are those of docs/metrics.md."""

    def log_samples(self, samples: Sequence[Sample], *, step: int) -> None:
        """The model wrote `samples` after `step` optimizer steps."""

    def finish(self, summary: Mapping[str, object]) -> None:
        """The run is over, however it ended; `summary` is what summary.json holds."""


@runtime_checkable
class RemoteTracker(Tracker, Protocol):
    """A tracker that sends the run to a service, which may be away."""

    undelivered: str
    """After `finish`: what the service did not receive, in one line; empty if it has all."""
