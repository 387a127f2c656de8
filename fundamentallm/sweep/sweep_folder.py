"""A sweep's folder: the file it runs, its storage, and a folder for every run."""

from __future__ import annotations

import os
import shutil
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from fundamentallm.disk import replace_text, sync_file, sync_folder
from fundamentallm.ownership import LOCK
from fundamentallm.run_folder import RunFolder
from fundamentallm.sweep.findings import SweepError

OF_OPTUNA = ("studies", "study_", "trial", "version_info", "alembic_version")
"""How the names of its tables begin."""
OF_OTHERS = """SELECT 1 FROM studies WHERE study_id IN (SELECT study_id FROM trials)
AND study_id NOT IN (SELECT study_id FROM study_user_attributes WHERE key = 'sweep')"""
"""Finds the studies that a sweep has not begun."""


class SweepFolder:
    """The files of one sweep under `path`; nothing is touched until a method is called."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.name = self.path.name
        self.file = self.path / "sweep.yaml"
        """The sweep file, as it was given."""
        self.database = self.path / "study.db"
        self.storage = self.path / "storage.txt"
        """The address of the storage, without a password, where it is not `database`."""
        self.tokens = self.path / "tokens"

    @property
    def url(self) -> str:
        """The storage that was chosen when the sweep was made."""
        if self.storage.exists():
            return self.storage.read_text("utf-8").strip()
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

    def run(self, number: int) -> RunFolder:
        """The folder of run `number`, counted from 0; its name counts from 1."""
        return RunFolder(self.path / f"run-{number + 1:04}")

    def create_run(self, number: int) -> RunFolder:
        """Make the folder of run `number`.

        Raises:
            SweepError: There is a link in its place, which leads who knows where.
            RunFolderError: It cannot be made or written.
        """
        folder = self.run(number)
        if folder.path.is_symlink():
            raise SweepError(f"{folder.path} is a link, not a folder; take it away")
        folder.create()
        return folder

    def create(self) -> None:
        """Make the folder and prove that it can be written.

        Raises:
            RunFolderError: It cannot be.
        """
        RunFolder(self.path).make()

    def check_is_ours(self) -> None:
        """See that a sweep, or nothing, is here.

        Raises:
            SweepError: Other things are.
        """
        if not self.path.is_dir():
            return
        advice = "move it away, or give another --output-dir"
        if self.database.exists() and not _is_a_sweeps(self.database):
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

    def write_file(self, text: str) -> None:
        """Write sweep.yaml, whole or not at all."""
        _replace(self.file, text)

    def write_storage(self, address: str) -> None:
        """Write storage.txt, whole or not at all."""
        _replace(self.storage, address + "\n")

    def was_left(self, number: int) -> bool:
        """Whether a `take_over` of run `number` was begun and could not end."""
        return any(self.path.glob(f".{self.run(number).path.name}-left-*"))

    def take_over(self, number: int) -> None:
        """Move run `number` away from a process that may still be writing, and go on in a copy.

        Such a process works by names relative to its current folder, so that all it writes from
        now on follows the folder that is moved away, and none of it reaches the copy.
        """
        folder = self.run(number)
        name = folder.path.name
        for path in self.path.glob(f".{name}-part-*"):  # of one who was killed, or had no room
            shutil.rmtree(path, ignore_errors=True)
        earlier = sorted(self.path.glob(f".{name}-left-*"), key=lambda path: path.stat().st_mtime)
        if folder.path.exists():  # whole, where those of before may be half deleted
            earlier.append(self.path / f".{name}-left-{uuid.uuid4().hex[:8]}")
            os.rename(folder.path, earlier[-1])
        if not earlier:
            return  # it was on another machine
        part = RunFolder(self.path / f".{name}-part-{uuid.uuid4().hex[:8]}")
        part.path.mkdir()
        source = RunFolder(earlier[-1])
        # The checkpoint first: rows are written before it, so the copy has all that it builds on.
        try:
            for file in (source.last, source.best, *source.files, source.path / "output.txt"):
                target = part.path / file.name
                if file.exists() and not target.exists():
                    shutil.copy2(file, target)
                    sync_file(target)
            sync_folder(part.path)
        except OSError:
            shutil.rmtree(part.path, ignore_errors=True)  # its room is needed
            raise
        os.rename(part.path, folder.path)
        sync_folder(self.path)  # before what was copied is removed
        left = {LOCK, *(f"{file.name}.part" for file in source.files)}  # of the other process
        for file in source.path.iterdir():  # what somebody else has put there
            if file.name not in left and not os.path.lexists(folder.path / file.name):
                os.rename(file, folder.path / file.name)
        for path in earlier:
            shutil.rmtree(path, ignore_errors=True)


def _is_a_sweeps(database: Path) -> bool:
    """Whether no study in it is another program's; one without trials may be our beginning."""
    tables = "SELECT name FROM sqlite_master WHERE type = 'table'"
    try:
        with closing(sqlite3.connect(database, timeout=60)) as opened:
            there = {name for (name,) in opened.execute(tables)}
            if not all(name.startswith(OF_OPTUNA) for name in there):
                return False
            if not there >= {"studies", "study_user_attributes", "trials"}:  # being made just now
                return True
            return not opened.execute(OF_OTHERS).fetchone()
    except sqlite3.DatabaseError:  # no database
        return False


def _replace(file: Path, text: str) -> None:
    replace_text(file, text, part=f".{file.name}-{uuid.uuid4().hex[:8]}")
