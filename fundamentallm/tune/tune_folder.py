"""Folder of a tuning: its request and decisions, the time it has used, and a sweep for each phase.

docs/tune.md lists its files.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fundamentallm.errors import FundamentallmError
from fundamentallm.files.atomic import DiskError, opened, read_file, replace_text, replacing
from fundamentallm.files.held_folder import why_misplaced, why_other_owner
from fundamentallm.files.run_folder import TUNING, RunFolder, RunFolderError
from fundamentallm.sweep.store.sweep_folder import SweepFolder
from fundamentallm.tune.budget import Budget

FORMAT = 1
LARGEST = 1 << 20
"""Bytes of tune.json and clock.json."""
TICK = 1.0
"""Seconds between two records of the time: a kill loses no more."""
PHASES = ("shapes", "search", "train")
PHASE = rf"({'|'.join(PHASES)})(-\d+)?"
FILES = rf"(tune|clock|measurements)\.json|best\.pt|report\.html|{PHASE}\.yaml"
FOLDERS = rf"{PHASE}|tokens"


class TuneError(FundamentallmError):
    """A tuning cannot start, or resume, as asked."""


@dataclass(frozen=True)
class Request:
    """Request of the user."""

    text: str | None
    """Absolute path of the text; None for the built-in text."""
    text_name: str
    sha256: str
    budget: Budget
    max_parameters: int | None = None
    max_memory_gb: float | None = None
    seed: int = 0
    device: str = "auto"

    def to_stored(self) -> dict[str, Any]:
        """Return the content for tune.json."""
        return asdict(self)

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> Request:
        """Read what `to_stored` returned.

        Raises:
            TypeError: No tuning has written this.
        """
        return cls(**{**stored, "budget": Budget(**stored["budget"])})

    def why_another(self, before: Request) -> str:
        """Return why this request cannot continue `before`; "" if it can. A budget may grow."""
        if self.sha256 != before.sha256:
            return f"it tuned another text, {before.text_name}"
        for name in ("max_parameters", "max_memory_gb", "seed"):
            was, now = getattr(before, name), getattr(self, name)
            if was != now:
                return f"--{name.replace('_gb', '').replace('_', '-')} was {was} and is {now}"
        if self.budget.is_time != before.budget.is_time:
            return f"its budget was {before.budget.text}"
        if (self.budget.minutes, self.budget.runs) < (before.budget.minutes, before.budget.runs):
            return f"its budget was {before.budget.text}, and a budget can only grow"
        return ""


class TuneFolder:
    """Files of one tuning under `path`; only its methods and its sweeps write there."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.file = self.path / TUNING
        self.clock = self.path / "clock.json"
        self.measurements = self.path / "measurements.json"
        self.tokens = self.path / "tokens"
        """Encoded text, for the runs of all phases."""
        self.best = self.path / "best.pt"
        self.report = self.path / "report.html"

    def sweep(self, phase: str) -> SweepFolder:
        """Return the folder of a phase's sweep."""
        return SweepFolder(self.path / phase)

    @contextmanager
    def opened(self, request: Request, *, started_at: float) -> Iterator[Tuning]:
        """Create the folder, or resume the tuning in it; hold it against other processes.

        Args:
            request: What the user asked for now.
            started_at: Time of `time.monotonic` from which this process's seconds count.

        Raises:
            TuneError: It holds something else, or another tuning; or one is in progress.
            RunFolderError: It cannot be created or written.
        """
        self._check_is_ours()
        lock = RunFolder(self.path)
        lock.make()
        with ExitStack() as stack:
            try:
                stack.enter_context(lock.held())
            except RunFolderError:  # in the words of a run
                raise TuneError(
                    f"{self.path}: a tuning is in progress there; wait for its end, or give "
                    "another --output-dir"
                ) from None
            yield self._begin(request, started_at)

    def _check_is_ours(self) -> None:
        """Check that the folder is empty or holds a tuning of this user.

        Raises:
            TuneError: It holds something else.
        """
        reason = why_misplaced(self.path, files=FILES, folders=FOLDERS)
        if reason := reason or why_other_owner(self.path, files=f"{FILES}|{FOLDERS}"):
            raise TuneError(reason)
        if os.path.lexists(self.file) or not os.path.lexists(self.path):
            return
        if not self.path.is_dir():
            raise TuneError(f"{self.path}: not a folder; give another --output-dir")
        ours = (".", self.measurements.name)
        others = [name for name in os.listdir(self.path) if not name.startswith(ours)]
        if others:
            raise TuneError(
                f"{self.path}: not the folder of a tuning, and not empty ({others[0]} is in it); "
                "give another --output-dir"
            )

    def _begin(self, request: Request, started_at: float) -> Tuning:
        if not os.path.lexists(self.file):
            tuning = Tuning(self, request, {}, 0.0, started_at)
            tuning.save()
            return tuning
        stored = self._read(self.file)
        try:
            if stored["format"] != FORMAT:
                raise TuneError(
                    f"{self.file}: of format {stored['format']}; this version reads {FORMAT}"
                )
            before = Request.from_stored(stored["request"])
            decisions = dict(stored["decisions"])
        except (KeyError, TypeError, ValueError):
            raise TuneError(
                f"{self.file}: not written by fundamentallm tune; give another --output-dir"
            ) from None
        if why := request.why_another(before):
            raise TuneError(
                f"{self.path}: {why}; use the same settings (only the budget may grow), or give "
                "another --output-dir"
            )
        tuning = Tuning(self, request, decisions, self._seconds_used(), started_at)
        if request != before:
            tuning.save()
        return tuning

    def _seconds_used(self) -> float:
        if not os.path.lexists(self.clock):
            return 0.0
        seconds = self._read(self.clock).get("seconds")
        if isinstance(seconds, int | float) and 0 <= seconds < 1e9:
            return float(seconds)
        raise TuneError(f"{self.clock}: not written by fundamentallm tune; delete it")

    def _read(self, file: Path) -> dict[str, Any]:
        try:
            content = json.loads(read_file(file, LARGEST, root=self.path))
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else "damaged"
            raise TuneError(f"{file}: cannot be read ({reason})") from None
        if not isinstance(content, dict):
            raise TuneError(f"{file}: cannot be read (damaged)")
        return content

    def write(self, file: Path, content: Mapping[str, Any]) -> None:
        """Write a JSON file atomically."""
        self.write_text(file.name, json.dumps(content, indent=1) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file atomically."""
        replace_text(self.path / name, text, self.path, part=f".{name}-{uuid.uuid4().hex[:8]}")

    def keep_best(self, run: RunFolder) -> None:
        """Copy a run's best model to `best.pt`.

        Raises:
            OSError: It cannot be read.
            DiskError: It cannot be written.
        """
        with opened(run.best, run.root) as source, replacing(self.best, self.path) as target:
            shutil.copyfileobj(source, target)


@dataclass
class Tuning:
    """A tuning in progress: its decisions so far, and the time it has used."""

    folder: TuneFolder
    request: Request
    decisions: dict[str, Any]
    """Decisions by name, as JSON; each is made once, and a resumed tuning keeps it."""
    seconds_before: float
    """Seconds that earlier processes have used."""
    started_at: float
    """Time of `time.monotonic` from which this process's seconds count."""

    @property
    def seconds(self) -> float:
        """Return the seconds used so far."""
        return self.seconds_before + time.monotonic() - self.started_at

    @property
    def seconds_left(self) -> float:
        """Return the seconds that are left of a budget of time."""
        return 60 * self.request.budget.minutes - self.seconds

    def decide(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a decision: as an earlier process has made it, else as `make` makes it now."""
        if name not in self.decisions:
            self.decisions[name] = json.loads(json.dumps(make()))
            self.save()
        return self.decisions[name]

    def save(self) -> None:
        """Write tune.json."""
        content = {"format": FORMAT, "request": self.request.to_stored()}
        self.folder.write(self.folder.file, {**content, "decisions": self.decisions})

    @contextmanager
    def clock_running(self) -> Iterator[None]:
        """Record the time used, every second, and at the end."""
        over = threading.Event()

        def record() -> None:
            with suppress(DiskError):  # a full disk stops the runs, which say so
                self.folder.write(self.folder.clock, {"seconds": self.seconds})

        def tick() -> None:
            while not over.wait(TICK):
                record()

        thread = threading.Thread(target=tick, daemon=True, name="clock")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            record()
