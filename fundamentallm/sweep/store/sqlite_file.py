"""SQLite's file in a folder of a sweep: links to another database are not followed."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from fundamentallm.files.held_folder import why_misplaced, why_other_owner
from fundamentallm.sweep.file.diagnostics import SweepError

FILES = r"study\.db(-wal|-shm|-journal)?"
"""Pattern of the names of the database's files."""


class OwnFile(sqlite3.Connection):
    """Connection to an SQLite file that is no link, for `factory` of `sqlite3.connect`.

    SQLite opens by path and follows a link in place of the database. So it is asked which file it
    has opened, before anything is read or written there.
    """

    def __init__(self, database: str | Path, *args: Any, **kwargs: Any) -> None:
        """Connect.

        Raises:
            SweepError: The file or one beside it is a link; or it belongs to another user, whom
                SQLite's new files beside it would lock out.
        """
        path = Path(database)
        reason = why_misplaced(path.parent, files=FILES)
        is_root = (
            hasattr(os, "geteuid") and os.geteuid() == 0
        )  # SQLite gives root's files to the owner
        if reason := reason or ("" if is_root else why_other_owner(path.parent, files=FILES)):
            raise SweepError(reason)
        super().__init__(database, *args, **kwargs)
        opened = Path(self.execute("PRAGMA database_list").fetchone()[2])
        if os.path.realpath(opened) != os.path.join(os.path.realpath(path.parent), path.name):
            self.close()
            raise SweepError(
                f"{path}: replaced by a link while it was opened; run the command again"
            )
