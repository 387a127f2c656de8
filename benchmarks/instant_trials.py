"""Trials that end at once, with losses from a formula, to time the engine's own work."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fundamentallm.cli.terminal_view import PlainView
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.sweep.engine.concurrency import Resources
from fundamentallm.sweep.engine.engine import Engine, EngineSettings
from fundamentallm.sweep.engine.job import Outcome, Row
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.search.base import Search
from fundamentallm.sweep.search.choose import choose_search
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.records import Run
from fundamentallm.sweep.store.run_store import RunStore
from fundamentallm.sweep.store.sweep_folder import SweepFolder

EVALUATIONS = 9


def loss(values: Mapping[str, Any], step: int) -> float:
    """Return a valley over the logs of all numbers; the loss falls with every step."""
    numbers = [float(value) for value in values.values() if type(value) in (int, float)]
    distance = sum((math.log10(abs(number) + 1e-9) + 2) ** 2 for number in numbers)
    return round(1.0 + distance / 10 + 1.0 / step, 6)


def write_end(folder: Path) -> None:
    """Write what an engine reads in the folder of a finished run."""
    folder.mkdir(exist_ok=True)
    (folder / "summary.json").write_text('{"status": "done"}')


class InstantTrial:
    """Trial that sends a row for every call of `messages` and ends after EVALUATIONS."""

    pid = 0

    def __init__(self, values: Mapping[str, Any], folder: RunFolder) -> None:
        self.values, self.folder, self.step, self.stop_reason = values, folder, 0, ""
        self.last_message_at = 0.0

    def messages(self) -> list[Row | Outcome]:
        """Return the next row, or the end."""
        self.last_message_at = time.monotonic()
        if self.stop_reason or self.step == EVALUATIONS:
            write_end(self.folder.path)
            return [Outcome("interrupted" if self.stop_reason else "done", self.stop_reason)]
        self.step += 1
        return [Row(self.step, EVALUATIONS, {"val_loss": loss(self.values, self.step)})]

    def stop(self, reason: str) -> None:
        """End with the next message."""
        self.stop_reason = self.stop_reason or reason

    def memory_gb(self) -> float:
        """Return that the memory is unknown."""
        return 0.0

    def kill(self) -> None:
        """Nothing runs."""

    close = kill


class InstantWorkers:
    """Executor of `InstantTrial`s whose jobs are the runs themselves."""

    def __init__(self, folder: SweepFolder) -> None:
        self.folder = folder

    def job(self, run: Run, slot: int) -> Run:
        """Return the run itself."""
        return run

    def resumes(self, run: Run) -> bool:
        """Return that no run resumes."""
        return False

    def why_restarted(self, run: Run) -> str:
        """Return no reason."""
        return ""

    def start(self, job: Run) -> InstantTrial:
        """Start a trial of a run."""
        return InstantTrial(job.values, self.folder.run(job.number))

    def wait(self, trials: Sequence[InstantTrial], seconds: float) -> None:
        """Return at once: trials always have a message."""


class Quiet(PlainView):
    """View that prints nothing."""

    def print_line(self, text: str, style: str = "") -> None:
        """Print nothing."""


def instant_engine(
    store: RunStore,
    sweep: SweepFile,
    *,
    search: Search | None = None,
    retries: int = 0,
    count: int | None = None,
) -> Engine:
    """Return an engine that runs one instant trial at a time."""
    space, folder = SearchSpace(sweep, {}), SweepFolder(store.held_folder.path)
    workers: Any = InstantWorkers(folder)
    return Engine(
        store,
        folder,
        sweep,
        search or choose_search(space, seed=7).search,
        EngineSettings(Resources(workers=1, threads=1), retries=retries, count=count),
        jobs=workers,
        executor=workers,
        observer=Quiet(SearchSpace(sweep, {}, is_ours=False), sweep.ranks_by),
    )
