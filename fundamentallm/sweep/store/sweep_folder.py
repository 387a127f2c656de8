"""A sweep's folder: the file it runs, its storage, and a folder for every run."""

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
from fundamentallm.files.held_folder import HeldFolder, Root, why_anothers, why_misplaced
from fundamentallm.files.ownership import FILES as RUN_FILES
from fundamentallm.files.ownership import LOCK
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.sweep.file.diagnostics import DisplacedError, SweepError
from fundamentallm.sweep.store.sqlite_file import FILES as DATABASE_FILES
from fundamentallm.sweep.store.sqlite_file import OwnFile

OF_OPTUNA = ("studies", "study_", "trial", "version_info", "alembic_version")
"""How the names of its tables begin."""
OF_OTHERS = """SELECT 1 FROM studies WHERE study_id IN (SELECT study_id FROM trials)
AND study_id NOT IN (SELECT study_id FROM study_user_attributes WHERE key = 'sweep')"""
"""Finds the studies that a sweep has not begun."""
RUN = r"run-\d+|\.run-\d+-(left|part)-\w+"
OF_WORKERS = rf"sweep\.yaml|storage\.txt|ledger\.lock|{DATABASE_FILES}"
FILES = rf"{OF_WORKERS}|report\.html"
OF_WANDB = "(offline-)?run-.+"
INNER: Mapping[str, Mapping[str, str]] = {
    "workers": {"files": r".+\.lock"},
    "tokens": {"files": r".+\.(tokens|json)", "folders": "new-.+"},
    "wandb": {"folders": rf"{OF_WANDB}|cache-\d+"},
}
"""What names in a sweep's folders for all runs match."""
WRITTEN = "|".join((RUN, OF_WORKERS, *INNER))
"""What names match that every worker writes to."""
LONGEST_ADDRESS = 1 << 14


class SweepFolder:
    """The files of one sweep under `path`; nothing is touched until a method is called."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.root: Root = self.path
        self.name = self.path.name
        self.file = self.path / "sweep.yaml"
        """The sweep file, as it was given."""
        self.database = self.path / "study.db"
        self.storage = self.path / "storage.txt"
        """The address of the storage, without a password, where it is not `database`."""
        self.tokens = self.path / "tokens"

    @property
    def url(self) -> str:
        """The storage that was chosen when the sweep was made.

        Raises:
            SweepError: It cannot be read.
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
        """The database beside the runs, its path as an address has it: with % for what is odd."""
        return f"sqlite:///{quote(str(self.database))}"

    @property
    def has_begun(self) -> bool:
        """Whether a sweep lies here: a file called sweep.yaml alone may be anybody's."""
        stored = os.path.lexists(self.database) or os.path.lexists(self.storage)
        return stored and os.path.lexists(self.file)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Until its end, runs are read and written in the folder that is there now.

        They follow it if it is moved; nothing is made anew where it was.
        """
        named = self.root
        try:
            with HeldFolder(self.path) as self.root:
                yield
        finally:
            self.root = named

    def why_displaced(self) -> str:
        """What has become of the folder, if it is held and was moved or removed; else nothing."""
        return self.root.why_displaced() if isinstance(self.root, HeldFolder) else ""

    def check_in_place(self) -> None:
        """See that the folder, where it is held, is still there.

        Raises:
            DisplacedError: It was moved or removed; its new place is named if that is known.
        """
        if not (why := self.why_displaced()):
            return
        now = self.root.place_now() if isinstance(self.root, HeldFolder) else None
        advice = "runs in progress have saved themselves; go on with: fundamentallm agent "
        advice += shlex.quote(str(now))
        if now is None:
            advice = "if it was moved, go on with fundamentallm agent and its new place"
        raise DisplacedError(f"{self.path}: {why} while the sweep ran, which stops here; {advice}")

    def run(self, number: int) -> RunFolder:
        """The folder of run `number`, counted from 0; its name counts from 1."""
        return RunFolder(self.path / f"run-{number + 1:04}", self.root)

    def create_run(self, number: int) -> RunFolder:
        """Make the folder of run `number`.

        Raises:
            RunFolderError: It cannot be made or written.
        """
        folder = self.run(number)
        folder.create()
        return folder

    def create(self) -> None:
        """Make the folder and prove that it can be written.

        Raises:
            RunFolderError: It cannot be.
        """
        RunFolder(self.path).make()

    def check_whole(self) -> None:
        """See that all here that a sweep may read or write is what its name says, and no link.

        Raises:
            SweepError: Something is not; it is named.
        """
        inner = {"files": FILES, "folders": "|".join((RUN, *INNER))}
        if reason := next(filter(None, self._misplaced(self.path, inner)), ""):
            raise SweepError(reason)

    def _misplaced(self, folder: Path, kinds: Mapping[str, str]) -> Iterator[str]:
        """Why what is in `folder` cannot be used, and then what is in the folders there."""
        yield why_misplaced(folder, **kinds)
        try:
            with HeldFolder(folder, self.path) as held:
                names = held.names()
        except OSError:  # it is not there, or nobody can list it
            return
        for name in names:
            if re.fullmatch(RUN, name) and folder == self.path:
                yield why_misplaced(folder / name, files=RUN_FILES)
            elif name in INNER and folder == self.path:
                yield from self._misplaced(folder / name, INNER[name])
            elif re.fullmatch(OF_WANDB, name) and folder == self.path / "wandb":
                yield why_misplaced(folder / name, folders="tmp|files|artifacts|logs")

    def check_is_ours(self) -> None:
        """See that a sweep of this user, or nothing, is here, and that it is whole.

        Raises:
            SweepError: Other things are.
        """
        self.check_whole()
        if reason := why_anothers(self.path, files=WRITTEN):
            raise SweepError(reason)
        if not self.path.is_dir():
            return
        for settings in (self.path / ".wandb", self.path / "wandb/settings"):
            if os.path.lexists(settings):
                raise SweepError(
                    f"{settings}: W&B's client would take from it which server it sends runs to, "
                    "and no sweep of fundamentallm wrote it; move it away"
                )
        advice = "move it away, or give another --output-dir"
        if self.database.exists() and not self._is_a_sweeps():
            raise SweepError(f"{self.database}: not the storage of a sweep; {advice}")
        if self.file.exists() and not self.has_begun:
            raise SweepError(
                f"{self.file}: not of a sweep that fundamentallm has begun, for neither "
                f"{self.database.name} nor {self.storage.name} is beside it; {advice}"
            )
        if not self.file.exists():
            others = [p.name for p in self.path.iterdir() if p.name not in ("workers", "tokens")]
            begun = (
                self.database.name,
                self.storage.name,
                "ledger.lock",
                ".writable-",
                f".{self.file.name}-",
                f".{self.storage.name}-",
            )
            others = [name for name in others if not name.startswith(begun)]
            if others:
                raise SweepError(
                    f"{self.path}: not a sweep's folder, and not empty ({others[0]} is there); "
                    "give another --output-dir"
                )

    def connect(self) -> sqlite3.Connection:
        """Open the database beside the runs.

        Raises:
            SweepError: A link is there.
            sqlite3.Error: It cannot be opened.
        """
        return sqlite3.connect(self.database, timeout=60, factory=OwnFile)

    def _is_a_sweeps(self) -> bool:
        """Whether no study is another program's; one without trials may be our beginning."""
        tables = "SELECT name FROM sqlite_master WHERE type = 'table'"
        try:
            with closing(self.connect()) as opened:
                there = {name for (name,) in opened.execute(tables)}
                if not all(name.startswith(OF_OPTUNA) for name in there):
                    return False
                if not there >= {"studies", "study_user_attributes", "trials"}:  # being made now
                    return True
                return not opened.execute(OF_OTHERS).fetchone()
        except sqlite3.DatabaseError:  # no database
            return False

    def write_file(self, text: str) -> None:
        """Write sweep.yaml, whole or not at all."""
        self._write(self.file, text)

    def write_storage(self, address: str) -> None:
        """Write storage.txt, whole or not at all."""
        self._write(self.storage, address + "\n")

    def _write(self, file: Path, text: str) -> None:
        replace_text(file, text, part=f".{file.name}-{uuid.uuid4().hex[:8]}")

    def is_half_replaced(self, number: int) -> bool:
        """Return whether a `replace_run` of run `number` was interrupted."""
        with HeldFolder(self.path, self.root) as sweep:
            return bool(sweep.names(f".{self.run(number).path.name}-left-*"))

    def replace_run(self, number: int) -> None:
        """Move run `number` away from a process that may still be writing, and go on in a copy.

        Such a process works by names relative to its current folder, so that all it writes from
        now on follows the folder that is moved away, and none of it reaches the copy.
        """
        name = self.run(number).path.name
        with HeldFolder(self.path, self.root) as sweep:
            for path in sweep.names(f".{name}-part-*"):  # of one who was killed, or had no room
                sweep.remove_tree(path)
            earlier = sorted(sweep.names(f".{name}-left-*"), key=sweep.age)
            if sweep.has(name):  # whole, where those of before may be half deleted
                earlier.append(f".{name}-left-{uuid.uuid4().hex[:8]}")
                sweep.move(name, earlier[-1])
            if not earlier:
                return  # it was on another machine
            self._copy_run(sweep, earlier[-1], name)
            for path in earlier:
                sweep.remove_tree(path)

    def _copy_run(self, sweep: HeldFolder, left: str, name: str) -> None:
        """Make the run's folder `name` anew from the one that was `left`."""
        own = [file.name for file in RunFolder(left).files]
        part = f".{name}-part-{uuid.uuid4().hex[:8]}"
        sweep.make_folder(part)
        with (
            HeldFolder(self.path / left, self.root) as source,
            HeldFolder(self.path / part, self.root) as target,
        ):
            # last.pt first: rows are written before it, so the copy has all that it builds on.
            try:
                for file in dict.fromkeys(("last.pt", *own, "output.txt")):
                    if source.has(file):
                        source.copy(file, target)
                target.sync()
            except OSError:
                sweep.remove_tree(part)  # its room is needed
                raise
            sweep.move(part, name)
            sweep.sync()  # before what was copied is removed
            others = {LOCK, *(f"{file}.part" for file in own)}  # of the other process
            for file in source.names():  # what somebody else has put there
                if file not in others and not target.has(file):
                    source.move(file, file, target)
            target.sync()
