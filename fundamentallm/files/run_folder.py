"""A run's folder: its files, who may write them, and how to read them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from fundamentallm.config.parsing import unwrapped
from fundamentallm.errors import FundamentallmError
from fundamentallm.files import bounded_yaml
from fundamentallm.files.atomic import DiskError, make_folder, read_file, replace_text, writing
from fundamentallm.files.held_folder import HeldFolder, Root, why_other_owner
from fundamentallm.files.ownership import FILES, LOCK, PROGRAM_CONFIG, why_foreign
from fundamentallm.files.samples import Sample, format_sample, parse_samples
from fundamentallm.metrics import finite
from fundamentallm.status import RunStatus

LARGEST_SETTINGS = 1 << 18
"""Bytes of config.yaml, or of another file of settings."""
LARGEST_SUMMARY = 1 << 20
LARGEST_METRICS = 1 << 27
"""Bytes of metrics.jsonl: half a million rows of ours."""
LARGEST_SAMPLES = 1 << 24
MOST_STEPS = 2**53
TUNING = "tune.json"
"""File of a tuning, whose folder holds the best of its runs' models beside them."""


REMOVED = "removed"
"""Field of summary.json: the checkpoints that were removed to free disk space."""
REMOVED_BY = "removed by fundamentallm clean or --keep"
"""Words about them."""


class RunFolderError(FundamentallmError):
    """A run folder is missing, cannot be written, or holds another run."""


class RunFolder:
    """Files of one run under `path`; only its methods read or write them."""

    def __init__(self, path: str | Path, root: Root | None = None) -> None:
        """Set the paths; below `root`, the folder or a parent, no link is followed."""
        self.path = Path(path)
        self.root: Root = root or self.path
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"
        self.samples = self.path / "samples.txt"
        self.best = self.path / "best.pt"
        self.last = self.path / "last.pt"
        self.trunk = self.path / "trunk.pt"
        self.wandb_id = self.path / "wandb-id.txt"

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that a run writes."""
        own = (self.config, self.metrics, self.summary, self.samples)
        return (*own, self.best, self.last, self.trunk, self.wandb_id)

    def holds_a_run(self) -> bool:
        """Return whether a run has written here; a tuning only copies its best model."""
        files = (file for file in self.files if os.path.lexists(file))
        return any(file != self.best or not os.path.lexists(self.path / TUNING) for file in files)

    def check_ownership(self) -> None:
        """Check that a run may overwrite or remove the files here.

        Raises:
            RunFolderError: A file belongs to another program or user.
        """
        if reason := why_foreign(self.path, self.root) or why_other_owner(self.path, files=FILES):
            raise RunFolderError(reason)

    def check_keeps(self, text: str | Path | None) -> None:
        """Check that the run would not overwrite its own text.

        Raises:
            RunFolderError: It would; the message names the text.
        """
        for file in self.files:
            with suppress(OSError, ValueError):  # one of them is missing
                if text is not None and os.path.samefile(text, file):
                    raise RunFolderError(
                        f"{text}: the run would overwrite the text that it trains on; give another "
                        "--output-dir, or copy the text"
                    )

    def create(self) -> None:
        """Create the folder, and check that a run may write there.

        Raises:
            RunFolderError: It cannot be created or written, or has files of others.
        """
        self.check_ownership()
        self.make()

    def make(self) -> None:
        """Create the folder and check that it is writable.

        Raises:
            RunFolderError: It cannot be created or written; the message says why.
        """
        try:
            make_folder(self.path, self.root)
            with HeldFolder(self.path, self.root) as folder:
                folder.probe()
        except OSError as error:
            reason = error.strerror or error
            raise RunFolderError(
                f"--output-dir {self.path}: cannot be written ({reason}); give a folder that can"
            ) from None

    @contextmanager
    def held(self, wait: float = 0.0) -> Iterator[None]:
        """Lock the folder for this run; the system unlocks it when this process ends.

        Until then writes follow the folder if it is moved, and reach no other folder at its path.
        `wait` is the time in seconds for another run to end.

        Raises:
            RunFolderError: Another run is in progress here; the message names its process.
            DiskError: The folder is gone.
        """
        import filelock

        lock = filelock.FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=wait)
        except filelock.Timeout:
            summary = self.read_summary()
            process, host = summary.get("process", "another process"), summary.get("host", "")
            holder = f"process {process} on {host}" if host else process
            raise RunFolderError(
                f"--output-dir {self.path}: a run is in progress there ({holder}); wait for its "
                "end, or give another folder"
            ) from None
        except (OSError, NotImplementedError):  # a file system without locks
            pass
        named = self.root
        try:
            with writing(self.path):
                self.root = HeldFolder(self.path, named)
            with self.root:
                yield
        finally:
            self.root = named
            lock.release()

    def identity(self) -> tuple[int, int]:
        """Return the folder's identity, to recognize another one at its path.

        Raises:
            DiskError: The folder is gone.
        """
        with writing(self.path), HeldFolder(self.path, self.root) as folder:
            return folder.known

    def moved(self) -> RunFolder | None:
        """Return the held folder at its current path; None if it was removed."""
        if not isinstance(self.root, HeldFolder):
            return self
        now = self.root.current_path()
        return None if now is None else RunFolder(now, self.root)

    def clear(self, *, starts_over: bool = False) -> None:
        """Remove the files of a run, and nothing else.

        A run that `starts_over` keeps its id on W&B, and its summary, which shows whose folder this
        is until the run writes a new one.
        """
        kept = (self.wandb_id, self.summary) if starts_over else ()
        for file in sorted(self.files, key=lambda file: file == self.summary):  # the summary last
            if file not in kept:
                with writing(file), HeldFolder(self.path, self.root) as folder:
                    folder.remove(file.name)

    def remove_checkpoints(self, names: Sequence[str], wait: float = 0.0) -> int:
        """Remove checkpoints of a run that has ended; return the bytes that this frees.

        summary.json names them from then on. `wait` is as in `held`.

        Raises:
            RunFolderError: A run is in progress here, or has not ended, or a file is of others.
            DiskError: The folder is gone, or a file cannot be removed.
        """
        with self.held(wait):
            self.check_ownership()
            if not self.has_ended():
                raise RunFolderError(f"{self.path}: the run has not ended, so its files stay")
            with writing(self.path), HeldFolder(self.path, self.root) as folder:
                sizes = {name: folder.size(name) for name in names if folder.has(name)}
            if not sizes:
                return 0
            is_noted = self._note_removed(sizes)
            with writing(self.path), HeldFolder(self.path, self.root) as folder:
                for name in sizes:
                    folder.remove(name)
                folder.sync()
            if not is_noted:  # the disk was full, and has room now
                self._note_removed(sizes)
            return sum(sizes.values())

    def _note_removed(self, names: Iterable[str]) -> bool:
        """Note in summary.json which checkpoints are gone; return False if the disk is full."""
        summary = self.read_summary()
        try:
            self.write_summary({**summary, REMOVED: sorted({*self.removed(), *names})})
        except DiskError:
            return False
        return True

    def removed(self) -> list[str]:
        """Return the names of the checkpoints that were removed to free disk space."""
        noted = self.read_summary().get(REMOVED)
        if not isinstance(noted, list):
            return []
        checkpoints = (self.best, self.last, self.trunk)
        return [file.name for file in checkpoints if file.name in noted and not file.exists()]

    def read_config(self) -> dict[str, Any]:
        """Read config.yaml."""
        return read_flat_yaml(self.config, self.root)

    def write_config(self, settings: Mapping[str, object]) -> None:
        """Write config.yaml, one `name: value` per line."""
        text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
        replace_text(self.config, text, self.root)

    def write_program_config(self, settings: Mapping[str, object]) -> None:
        """Write config.yaml of a run of another program; its first line proves whose file it is."""
        text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
        replace_text(self.config, PROGRAM_CONFIG + text, self.root)

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write summary.json."""
        replace_text(self.summary, json.dumps(summary, indent=2) + "\n", self.root)

    def read_summary(self) -> dict[str, Any]:
        """Read summary.json; empty if it is missing or invalid."""
        try:
            content = json.loads(read_file(self.summary, LARGEST_SUMMARY, root=self.root))
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def stamps(self) -> dict[str, tuple[int, int, int]]:
        """Return the `HeldFolder.stamp` of each file that a report reads, by its name."""
        names = (file.name for file in (self.config, self.metrics, self.summary, self.samples))
        try:
            with HeldFolder(self.path, self.root) as folder:
                stamps = {name: folder.stamp(name) for name in names}
        except OSError:
            return {}
        return {name: stamp for name, stamp in stamps.items() if stamp is not None}

    def has_ended(self) -> bool:
        """Return whether the summary shows the run's end, and rows exist if it took a step."""
        summary = self.read_summary()
        if summary.get("status", RunStatus.RUNNING) == RunStatus.RUNNING:
            return False
        return not summary.get("step") or (self.metrics.exists() and bool(self.metric_lines()))

    def write_end(self, status: RunStatus, stopped_by: str) -> None:
        """Write the end of a run into summary.json, for a process that could not.

        Raises:
            RunFolderError: The folder has files of others.
            DiskError: The file cannot be written.
        """
        self.check_ownership()
        known = {k: v for k, v in self.read_summary().items() if k not in ("host", "process")}
        self.write_summary({**known, "status": status, "stopped_by": stopped_by})

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of metrics.jsonl: steps and finite numbers.

        Invalid lines and values, such as a line cut short, are left out.
        """
        return (row for row in map(read_row, self.metric_lines()) if row is not None)

    def metric_lines(self) -> list[str]:
        """Return the raw lines of metrics.jsonl, with line ends; none if it is missing."""
        try:
            return self._metric_lines()
        except OSError:
            return []

    def _metric_lines(self) -> list[str]:
        content = read_file(self.metrics, LARGEST_METRICS, root=self.root)
        return content.decode("utf-8", "replace").splitlines(keepends=True)

    def read_samples(self) -> Iterator[tuple[int, Sample]]:
        """Yield the steps and samples of samples.txt; none if it is missing."""
        with suppress(OSError):
            yield from self._samples()

    def _samples(self) -> Iterator[tuple[int, Sample]]:
        content = read_file(self.samples, LARGEST_SAMPLES, root=self.root)
        return parse_samples(content.decode("utf-8", "replace"))

    def rewind(self, step: int) -> None:
        """Remove rows and samples after `step`, which a resumed run writes again.

        Raises:
            DiskError: A file cannot be read or written; its content is unchanged.
        """
        if self.metrics.exists():
            with writing(self.metrics):
                self._metric_lines()
            rows = (row for row in self.rows() if row["step"] <= step)
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            replace_text(self.metrics, lines, self.root)
        if self.samples.exists():
            with writing(self.samples):
                kept = [format_sample(at, sample) for at, sample in self._samples() if at <= step]
            replace_text(self.samples, "".join(kept), self.root)

    def append(self, file: Path, text: str) -> None:
        """Append to metrics.jsonl or samples.txt.

        Raises:
            DiskError: The file cannot be written; a part of the text may be written.
        """
        with writing(file), HeldFolder(self.path, self.root) as folder:
            is_new = not folder.has(file.name)
            with folder.open(file.name, "ab") as opened:
                opened.write(text.encode(errors="backslashreplace"))  # half a surrogate pair
            if is_new:
                folder.sync()

    def sync(self) -> None:
        """Sync rows and samples, so that they survive a power cut.

        Raises:
            DiskError: A file cannot be synced.
        """
        for file in (self.metrics, self.samples):
            with (
                writing(file),
                HeldFolder(self.path, self.root) as folder,
                suppress(FileNotFoundError),
            ):
                folder.sync_file(file.name)


def read_row(line: str) -> dict[str, Any] | None:
    """Read a line of metrics.jsonl: its step and finite numbers; None if it is invalid."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not (line.endswith("\n") and isinstance(row, dict)):
        return None
    step = row.get("step")
    if type(step) is not int or not 0 <= step <= MOST_STEPS:
        return None
    return {name: value for name, value in row.items() if finite(value) is not None}


def read_flat_yaml(path: Path, root: Root | None = None) -> dict[str, Any]:
    """Read a file of `name: value` lines, or of `name: {value: ...}` as W&B writes a run's config.

    No link is followed below `root`; None if the user named the file itself.

    Raises:
        RunFolderError: The file is missing, not YAML, or not flat.
    """
    try:
        content = bounded_yaml.load(read_file(path, LARGEST_SETTINGS, root=root).decode("utf-8"))
    except OSError as error:
        raise RunFolderError(f"{path}: {error.strerror}; give a config.yaml of a run") from None
    except UnicodeDecodeError as error:
        raise RunFolderError(f"{path}: not UTF-8 at byte {error.start}") from None
    except bounded_yaml.YamlError as error:
        reason = f"{error.problem}; give lines of `name: value`"
        raise RunFolderError(f"{error.where(path)}: {reason}") from None
    content = {} if content is None else content
    if theirs := unwrapped(content):
        return theirs
    if not (isinstance(content, dict) and all(_is_setting(*each) for each in content.items())):
        raise RunFolderError(f"{path}: not a flat list; give lines of `name: value`")
    return content


def _is_setting(name: object, value: object) -> bool:
    """Return whether `name: value` is flat; a value may be a list, also of lists."""
    inner = value if isinstance(value, list) else []
    is_flat = not isinstance(value, dict) and all(_is_setting("", each) for each in inner)
    return isinstance(name, str) and is_flat


def new_run_folder(root: Path, name: str) -> RunFolder:
    """Create `root/NAME-N` with the first free N, even if two runs start at once.

    Raises:
        RunFolderError: The folder cannot be created.
    """
    safe = re.sub(r"[^\w.-]+", "-", name).strip(".-")[:60] or "run"
    try:
        make_folder(root)
        number = 1
        while True:
            path = root / f"{safe}-{number}"
            with suppress(FileExistsError):
                make_folder(path, exist_ok=False)
                return RunFolder(path)
            number += 1
    except OSError as error:
        raise RunFolderError(
            f"{root}: no folder can be created there ({error.strerror}); give --output-dir"
        ) from None
