"""Folder of a sweep: its sweep file, its storage, and a folder for every run."""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from fundamentallm.files.atomic import read_file, replace_text
from fundamentallm.files.held_folder import HeldFolder, Root, why_misplaced, why_other_owner
from fundamentallm.files.ownership import FILES as RUN_FILES
from fundamentallm.files.ownership import LOCK
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.sweep.file.diagnostics import DisplacedError, SweepError
from fundamentallm.sweep.store.sqlite_file import FILES as DATABASE_FILES
from fundamentallm.sweep.store.sqlite_file import OwnFile

OPTUNA_TABLES = ("studies", "study_", "trial", "version_info", "alembic_version")
"""Prefixes of the names of Optuna's tables."""
FOREIGN_STUDIES = """SELECT 1 FROM studies WHERE study_id IN (SELECT study_id FROM trials)
AND study_id NOT IN (SELECT study_id FROM study_user_attributes WHERE key = 'sweep')"""
"""Query for studies with trials that no sweep created."""
RUN = r"run-\d+|\.run-\d+-(left|part)-\w+"
WORKER_FILES = rf"sweep\.yaml|storage\.txt|ledger\.lock|{DATABASE_FILES}"
FILES = rf"{WORKER_FILES}|report\.html|notes\.md"
WANDB_RUN = "(offline-)?run-.+"
INNER: Mapping[str, Mapping[str, str]] = {
    "workers": {"files": r".+\.lock"},
    "tokens": {"files": r".+\.(tokens|json)", "folders": "new-.+"},
    "wandb": {"folders": rf"{WANDB_RUN}|cache-\d+"},
}
"""Patterns of names in the folders that all runs share."""
WRITTEN = "|".join((RUN, WORKER_FILES, *INNER))
"""Pattern of all names that workers write to."""
LONGEST_ADDRESS = 1 << 14
LONGEST_NOTES = 1 << 17
"""Bytes of notes.md."""


def run_folder_name(number: int) -> str:
    """Return the name of the folder of run `number`, counted from 0; the name counts from 1."""
    return f"run-{number + 1:04}"


def sweep_folder_name(sweep: str) -> str:
    """Return the name of the folder of a sweep with this name, unless the user gives a folder."""
    return re.sub(r"[^\w.-]+", "-", sweep).strip(".-")[:60] or "sweep"


def checkpoints(folder: Path) -> Iterator[Path]:
    """Yield the checkpoints of all runs in a sweep's folder, whether they exist or not."""
    return (path / "last.pt" for path in folder.iterdir() if re.fullmatch(RUN, path.name))


def is_sweep(folder: Path) -> bool:
    """Return whether a folder holds a sweep, or what is left of one beside its runs."""
    if not os.path.isfile(folder / "sweep.yaml"):  # alone it may be anyone's
        return False
    return SweepFolder(folder).exists or any(re.fullmatch(RUN, name) for name in os.listdir(folder))


class SweepFolder:
    """Files of one sweep under `path`; only its methods read or write them."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.root: Root = self.path
        self.name = self.path.name
        self.file = self.path / "sweep.yaml"
        """Copy of the sweep file."""
        self.database = self.path / "study.db"
        self.storage = self.path / "storage.txt"
        """File with the storage's address, without a password, if it is not `database`."""
        self.tokens = self.path / "tokens"
        self.notes = self.path / "notes.md"
        """The user's notes, written on the dashboard or by hand."""

    @property
    def url(self) -> str:
        """Return the address of the storage that the sweep was created with.

        Raises:
            SweepError: `storage` cannot be read.
        """
        if self.storage.exists():
            try:
                return read_file(self.storage, LONGEST_ADDRESS, root=self.path).decode().strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
                raise SweepError(f"{self.storage}: cannot be read ({reason})") from None
        return self.local_url

    @property
    def local_url(self) -> str:
        """Return the address of the database beside the runs, special characters escaped by %."""
        return f"sqlite:///{quote(str(self.database))}"

    @property
    def exists(self) -> bool:
        """Return whether a sweep is here; sweep.yaml alone may be any file."""
        stored = os.path.lexists(self.database) or os.path.lexists(self.storage)
        return stored and os.path.lexists(self.file)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder: runs are read and written in it even if it is moved.

        Nothing is created at its old path.
        """
        named = self.root
        try:
            with HeldFolder(self.path) as self.root:
                yield
        finally:
            self.root = named

    def why_displaced(self) -> str:
        """Return what happened to a held folder that was moved or removed; "" otherwise."""
        return self.root.why_displaced() if isinstance(self.root, HeldFolder) else ""

    def check_in_place(self) -> None:
        """Check that the held folder was not moved or removed.

        Raises:
            DisplacedError: It was; the message names its new path if that is known.
        """
        if not (why := self.why_displaced()):
            return
        now = self.root.current_path() if isinstance(self.root, HeldFolder) else None
        advice = f"resume with: fundamentallm agent {shlex.quote(str(now))}"
        if now is None:
            advice = "if it was moved, resume with fundamentallm agent and its new path"
        raise DisplacedError(
            f"{self.path}: {why} while the sweep ran, so the sweep stopped; {advice}"
        )

    def run(self, number: int) -> RunFolder:
        """Return the folder of run `number`, from 0; its name counts from 1."""
        return RunFolder(self.path / run_folder_name(number), self.root)

    def create_run(self, number: int) -> RunFolder:
        """Create the folder of run `number`.

        Raises:
            RunFolderError: It cannot be created or written.
        """
        folder = self.run(number)
        folder.create()
        return folder

    def create(self) -> None:
        """Create the folder and check that it can be written.

        Raises:
            RunFolderError: It cannot be created or written.
        """
        RunFolder(self.path).make()

    def check_whole(self) -> None:
        """Check that every file and folder of a sweep is of its kind and no link.

        Raises:
            SweepError: One is not; the message names it.
        """
        inner = {"files": FILES, "folders": "|".join((RUN, *INNER))}
        if reason := next(filter(None, self._misplaced(self.path, inner)), ""):
            raise SweepError(reason)

    def _misplaced(self, folder: Path, kinds: Mapping[str, str]) -> Iterator[str]:
        """Yield why content of `folder` cannot be used, and then of the folders in it."""
        yield why_misplaced(folder, **kinds)
        try:
            with HeldFolder(folder, self.path) as held:
                names = held.names()
        except OSError:  # missing, or not readable
            return
        for name in names:
            if re.fullmatch(RUN, name) and folder == self.path:
                yield why_misplaced(folder / name, files=RUN_FILES)
            elif name in INNER and folder == self.path:
                yield from self._misplaced(folder / name, INNER[name])
            elif re.fullmatch(WANDB_RUN, name) and folder == self.path / "wandb":
                yield why_misplaced(folder / name, folders="tmp|files|artifacts|logs")

    def check_is_ours(self) -> None:
        """Check that the folder is empty or holds a sweep of this user, and no other files.

        Raises:
            SweepError: It holds something else.
        """
        self.check_whole()
        if reason := why_other_owner(self.path, files=WRITTEN):
            raise SweepError(reason)
        if not self.path.is_dir():
            return
        for settings in (self.path / ".wandb", self.path / "wandb/settings"):
            if os.path.lexists(settings):
                raise SweepError(
                    f"{settings}: W&B's client would read from it where to send runs, and "
                    "fundamentallm did not write it; move it away"
                )
        advice = "move it away, or give another --output-dir"
        if self.database.exists() and not self._is_a_sweeps():
            raise SweepError(f"{self.database}: not the storage of a sweep; {advice}")
        if self.file.exists() and not self.exists:
            raise SweepError(
                f"{self.file}: fundamentallm did not write it, for neither {self.database.name} "
                f"nor {self.storage.name} is beside it; {advice}"
            )
        if not self.file.exists():
            others = [p.name for p in self.path.iterdir() if p.name not in ("workers", "tokens")]
            ours = (
                self.database.name,
                self.storage.name,
                "ledger.lock",
                ".writable-",
                f".{self.file.name}-",
                f".{self.storage.name}-",
            )
            others = [name for name in others if not name.startswith(ours)]
            if others:
                raise SweepError(
                    f"{self.path}: not the folder of a sweep, and not empty ({others[0]} is in "
                    "it); give another --output-dir"
                )

    def connect(self) -> sqlite3.Connection:
        """Open the database beside the runs.

        Raises:
            SweepError: It is a link.
            sqlite3.Error: It cannot be opened.
        """
        return sqlite3.connect(self.database, timeout=60, factory=OwnFile)

    def _is_a_sweeps(self) -> bool:
        """Return whether all studies with trials are of sweeps; new ones have no trials yet."""
        tables = "SELECT name FROM sqlite_master WHERE type = 'table'"
        try:
            with closing(self.connect()) as opened:
                names = {name for (name,) in opened.execute(tables)}
                if not all(name.startswith(OPTUNA_TABLES) for name in names):
                    return False
                if not names >= {"studies", "study_user_attributes", "trials"}:  # being created now
                    return True
                return not opened.execute(FOREIGN_STUDIES).fetchone()
        except sqlite3.DatabaseError:  # not a database
            return False

    def write_file(self, text: str) -> None:
        """Write sweep.yaml atomically."""
        self._write(self.file, text)

    def write_storage(self, address: str) -> None:
        """Write storage.txt atomically."""
        self._write(self.storage, address + "\n")

    def read_notes(self) -> str:
        """Return notes.md; empty if it is missing or cannot be read."""
        try:
            content = read_file(self.notes, LONGEST_NOTES, root=self.root)
        except OSError:
            return ""
        return content.decode("utf-8", "replace")

    def write_notes(self, text: str) -> None:
        """Write notes.md atomically.

        Raises:
            DiskError: It cannot be written.
        """
        self._write(self.notes, text)

    def _write(self, file: Path, text: str) -> None:
        replace_text(file, text, part=f".{file.name}-{uuid.uuid4().hex[:8]}")

    def is_half_replaced(self, number: int) -> bool:
        """Return whether a `replace_run` of run `number` was interrupted."""
        with HeldFolder(self.path, self.root) as sweep:
            return bool(sweep.names(f".{run_folder_name(number)}-left-*"))

    def replace_run(self, number: int) -> None:
        """Replace the folder of run `number` by a copy that an earlier process cannot write.

        Such a process may still run. It uses names relative to its current folder. So all that it
        writes from now on goes into the folder that is moved away, and not into the copy.
        """
        name = run_folder_name(number)
        with HeldFolder(self.path, self.root) as sweep:
            for path in sweep.names(
                f".{name}-part-*"
            ):  # left by a worker that was killed or had no room
                sweep.remove_tree(path)
            earlier = sorted(sweep.names(f".{name}-left-*"), key=sweep.age)
            if sweep.has(name):  # complete; earlier ones may be half deleted
                earlier.append(f".{name}-left-{uuid.uuid4().hex[:8]}")
                sweep.move(name, earlier[-1])
            if not earlier:
                return  # the folder was on another machine
            self._copy_run(sweep, earlier[-1], name)
            for path in earlier:
                sweep.remove_tree(path)

    def _copy_run(self, sweep: HeldFolder, left: str, name: str) -> None:
        """Copy the folder `left` to the run's folder `name`."""
        own = [file.name for file in RunFolder(left).files]
        part = f".{name}-part-{uuid.uuid4().hex[:8]}"
        sweep.make_folder(part)
        with (
            HeldFolder(self.path / left, self.root) as source,
            HeldFolder(self.path / part, self.root) as target,
        ):
            # last.pt first: its rows were written before it, so the copy has them.
            try:
                for file in dict.fromkeys(("last.pt", *own, "output.txt")):
                    if source.has(file):
                        source.copy(file, target)
                target.sync()
            except OSError:
                sweep.remove_tree(part)  # to free its disk space
                raise
            sweep.move(part, name)
            sweep.sync()  # before the source is removed
            others = {LOCK, *(f"{file}.part" for file in own)}  # of the earlier process
            for file in source.names():  # files of the user
                if file not in others and not target.has(file):
                    source.move(file, file, target)
            target.sync()
