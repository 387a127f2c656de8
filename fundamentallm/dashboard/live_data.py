"""Live data: follows folders of runs, and reads again only what changed.

Two threads share the work. One reads rows and shows them at once; the other, which takes seconds
with thousands of runs, explains and draws all runs together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fundamentallm.dashboard.changes import Changes
from fundamentallm.errors import FundamentallmError, one_line
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.report.curves import CurveParts
from fundamentallm.report.page import joint_parts
from fundamentallm.report.page_parts import run_parts
from fundamentallm.report.read_runs import RunReader, read_run
from fundamentallm.report.results import Results, RunResult
from fundamentallm.sweep.file.sweep_file import Metric

RUN_KINDS = ("about", "columns", "notes", "run", "curves", "sample")
JOINT_KINDS = ("words", "figures", "figure")
SHORTEST_PAUSE = 0.4
"""Seconds between two looks at the folders, of few runs."""
REST = {"runs": 1.0, "joint": 3.0}
"""Pause after a look or a drawing, in times that it took: the runs need the cores."""
STORAGE_SECONDS = 10.0
"""Seconds until the storage is read again, which may have runs of other machines."""
UNWATCHED_PAUSE = 5.0
"""Seconds between two looks while no browser is connected."""


@dataclass(frozen=True)
class _Known:
    folder: RunFolder
    stamps: dict[str, tuple[int, int, int]]
    name: str
    metric: Metric
    run: RunResult
    notes: list[str]


class KnownRuns:
    """A reader of runs that reads a folder again only if one of its files has changed."""

    def __init__(self) -> None:
        """Begin without runs."""
        self._known: dict[Path, _Known] = {}
        self._lock = threading.Lock()
        self.count = 0
        """Folders that were read."""

    def __call__(self, path: Path, name: str, metric: Metric, notes: list[str]) -> RunResult:
        """Return a run as `read_run` does."""
        with self._lock:
            known = self._known.get(path)
            folder = known.folder if known is not None else RunFolder(path)
            stamps = folder.stamps()  # before its content: a later change shows next time
            if known is None or (known.stamps, known.name, known.metric) != (stamps, name, metric):
                own: list[str] = []
                run = read_run(path, name, metric, own)
                known = _Known(folder, stamps, name, metric, run, own)
                self._known[path] = known
                self.count += 1
            notes += known.notes
            return known.run

    def has_read(self, location: str) -> bool:
        """Return whether a run was read from this folder."""
        return Path(location) in self._known


class LiveData:
    """The page's parts, kept up to date by threads until `stop`."""

    def __init__(
        self,
        read_folders: Callable[[RunReader], Results],
        read_all: Callable[[RunReader], Results],
    ) -> None:
        """Read for the first time.

        Args:
            read_folders: Reads the runs in the folders, with a reader that knows earlier results.
            read_all: The same, and what the sweep's storage knows of other machines' runs.
        """
        self._read_folders, self._read_all = read_folders, read_all
        self._reader, self._curves = KnownRuns(), CurveParts()
        self._ended = threading.Event()
        self._viewers = 0
        self._seen: object = None
        self._drawn: object = None
        self._read_count, self._read_again = -1, 0.0
        self.changes = Changes()
        self.results = self._take_joint()
        self._take_runs()

    def start(self) -> None:
        """Start to follow the folders."""
        for name, step in (("runs", self._take_runs), ("joint", self._take_joint)):
            threading.Thread(target=self._follow, args=(name, step), daemon=True).start()

    def stop(self) -> None:
        """End the threads, and the streams of `changes`."""
        self._ended.set()

    def wait(self, seconds: float) -> bool:
        """Wait; return whether `stop` was called."""
        return self._ended.wait(seconds)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Follow closely while a browser is connected."""
        self._viewers += 1
        try:
            yield
        finally:
            self._viewers -= 1

    def _follow(self, name: str, step: Callable[[], object]) -> None:
        pause = SHORTEST_PAUSE
        while not self._pause(pause):
            started = time.monotonic()
            try:
                step()
                problem = ""
            except FundamentallmError as error:  # a link in place of a file, say
                problem = one_line(error)
            self.changes.replace({f"problem/{name}": problem}, [])
            pause = max(SHORTEST_PAUSE, REST[name] * (time.monotonic() - started))

    def _pause(self, pause: float) -> bool:
        """Wait, longer while nobody watches; return whether the end has come."""
        until = time.monotonic() + UNWATCHED_PAUSE
        while not self.wait(pause):
            if self._viewers or time.monotonic() > until:
                return False
        return True

    def _take_runs(self) -> None:
        """Take the rows, curves and samples of the runs."""
        results = self._read_folders(self._reader)
        folders = [run.location for run in results.runs]
        stored = len(self.results.runs)
        seen = self._reader.count, folders, stored, results.remarks, results.notes
        if seen == self._seen:
            return
        self._seen = seen
        others = [run for run in self.results.runs if not self._reader.has_read(run.location)]
        every = replace(results, runs=[*results.runs, *others])  # those only the storage knows too
        self.changes.replace(run_parts(every, self._curves), RUN_KINDS)

    def _take_joint(self) -> Results:
        """Take the words and charts about all runs."""
        if self._read_count == self._reader.count and time.monotonic() < self._read_again:
            return self.results
        self._read_again = time.monotonic() + STORAGE_SECONDS
        results = self._read_all(self._reader)
        self._read_count, self.results = self._reader.count, results
        scores = [(run.name, run.status, run.score) for run in results.runs]
        drawn = self._reader.count, scores, results.notes
        if drawn != self._drawn:
            self._drawn = drawn
            self.changes.replace(joint_parts(results), JOINT_KINDS)
        return results
