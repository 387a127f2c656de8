"""Folder tracker: writes config.yaml, metrics.jsonl, samples.txt and summary.json."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence

from fundamentallm.files.run_folder import RunFolder
from fundamentallm.files.samples import Sample, format_sample
from fundamentallm.status import RunStatus
from fundamentallm.trackers.base import Number


class FolderTracker:
    """A `Tracker` whose files are complete after every call, so that a kill loses no row."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def start(
        self,
        settings: Mapping[str, object],
        *,
        total_steps: int,
        step: int,
        facts: Mapping[str, object],
    ) -> None:
        """Write summary.json and config.yaml, and remove rows after `step`.

        summary.json comes first: it proves that the files beside it belong to a run, however soon
        the run is killed. metrics.jsonl exists from now on.
        """
        process = {"host": socket.gethostname(), "process": os.getpid()}
        self.folder.write_summary(
            {"status": RunStatus.RUNNING, "total_steps": total_steps, **facts, **process}
        )
        self.folder.write_config(settings)
        self.folder.rewind(step)
        self.folder.append(self.folder.metrics, "")

    def log(self, metrics: Mapping[str, Number], *, step: int) -> None:
        """Add a row to metrics.jsonl."""
        row = json.dumps({"step": step, **metrics}, allow_nan=False)
        self.folder.append(self.folder.metrics, row + "\n")

    def log_samples(self, samples: Sequence[Sample], *, step: int) -> None:
        """Add to samples.txt."""
        text = "".join(format_sample(step, sample) for sample in samples)
        self.folder.append(self.folder.samples, text)

    def finish(self, summary: Mapping[str, object]) -> None:
        """Write summary.json, once the other files would survive a power cut."""
        self.folder.sync()
        self.folder.write_summary(summary)
