"""SQLite's file in a folder from others: no link is followed to another database."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from fundamentallm.files.held_folder import why_anothers, why_misplaced
from fundamentallm.sweep.file.diagnostics import SweepError

FILES = r"study\.db(-wal|-shm|-journal)?"
"""What names of the database's files match."""


class OwnFile(sqlite3.Connection):
    """A connection for `sqlite3.connect`'s `factory`, to a file that is no link.

    SQLite opens by path, and follows a link in the place of the database alone. So it is asked
    afterwards which file it has opened, before anything is read or written there.
    """

    def __init__(self, database: str | Path, *args: Any, **kwargs: Any) -> None:
        """Connect.

        Raises:
            SweepError: It is a link, or is used by links, to somewhere else; or it is another
                user's, whom the files that SQLite leaves beside it would lock out.
        """
        path = Path(database)
        reason = why_misplaced(path.parent, files=FILES)
        is_root = hasattr(os, "geteuid") and os.geteuid() == 0  # whose files SQLite gives the owner
        if reason := reason or ("" if is_root else why_anothers(path.parent, files=FILES)):
            raise SweepError(reason)
        super().__init__(database, *args, **kwargs)
        opened = Path(self.execute("PRAGMA database_list").fetchone()[2])
        if os.path.realpath(opened) != os.path.join(os.path.realpath(path.parent), path.name):
            self.close()
            raise SweepError(f"{path}: it was replaced by a link while it was opened; start again")
