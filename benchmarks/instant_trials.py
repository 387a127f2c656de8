"""Trials that end at once, with losses by a formula: what is left is the engine's own work."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fundamentallm.cli.terminal_view import PlainView
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.sweep.engine.concurrency import Resources
from fundamentallm.sweep.engine.engine import Engine
from fundamentallm.sweep.engine.job import Outcome, Row
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.search.choose import ChosenSearch, choose_search
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.records import Run
from fundamentallm.sweep.store.run_store import RunStore
from fundamentallm.sweep.store.sweep_folder import SweepFolder

EVALUATIONS = 9


def loss(values: Mapping[str, Any], step: int) -> float:
    """A valley over the logs of all numbers, which every step brings nearer."""
    numbers = [float(value) for value in values.values() if type(value) in (int, float)]
    distance = sum((math.log10(abs(number) + 1e-9) + 2) ** 2 for number in numbers)
    return round(1.0 + distance / 10 + 1.0 / step, 6)


def write_end(folder: Path) -> None:
    """All that an engine looks for in the folder of a run that has finished."""
    folder.mkdir(exist_ok=True)
    (folder / "summary.json").write_text('{"status": "done"}')


class InstantTrial:
    """Says a row whenever it is listened to, and ends after EVALUATIONS, or when it is stopped."""

    pid = 0

    def __init__(self, values: Mapping[str, Any], folder: RunFolder) -> None:
        self.values, self.folder, self.step, self.stop_reason = values, folder, 0, ""
        self.heard = 0.0

    def messages(self) -> list[Row | Outcome]:
        """The next row, or the end."""
        self.heard = time.monotonic()
        if self.stop_reason or self.step == EVALUATIONS:
            write_end(self.folder.path)
            return [Outcome("interrupted" if self.stop_reason else "done", self.stop_reason)]
        self.step += 1
        return [Row(self.step, EVALUATIONS, {"val_loss": loss(self.values, self.step)})]

    def stop(self, reason: str) -> None:
        """End with the next message."""
        self.stop_reason = self.stop_reason or reason

    def kill(self) -> None:
        """Nothing runs."""

    close = kill


class InstantWorkers:
    """Starts `InstantTrial`s; takes runs for jobs."""

    def __init__(self, folder: SweepFolder) -> None:
        self.folder = folder

    def job(self, run: Run, slot: int) -> Run:
        """The run itself."""
        return run

    def start(self, job: Run) -> InstantTrial:
        """A trial of a run."""
        return InstantTrial(job.values, self.folder.run(job.number))

    def wait(self, trials: Sequence[InstantTrial], seconds: float) -> None:
        """None is needed."""


class Quiet(PlainView):
    """Keeps what a view keeps, and prints nothing."""

    def line(self, text: str) -> None:
        """Say nothing."""


def instant_engine(
    ledger: RunStore,
    sweep: SweepFile,
    *,
    method: ChosenSearch | None = None,
    count: int | None = None,
) -> Engine:
    """An engine that does one instant trial at a time."""
    points, folder = SearchSpace(sweep, {}), SweepFolder(ledger.place.path)
    workers: Any = InstantWorkers(folder)
    return Engine(
        ledger,
        folder,
        sweep,
        method or choose_search(points, seed=7),
        means=Resources(workers=1, threads=1),
        jobs=workers,
        observer=Quiet(points, sweep.ranks_by),
        workers=workers,
        count=count,
    )
