"""Keep the files that W&B's client writes under `wandb/` in the run's folder, and clean them up.

The client writes a table's or model's file into a temporary folder, and copies it to the user's
data folder, from where it is sent. It cleans up as Python exits, which a trial of a sweep or a
killed process never does.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import wandb
from wandb.sdk.data_types._private import MEDIA_TMP

DATA_DIR = "WANDB_DATA_DIR"
TEMPORARY = "tmp/client"


class OwnFiles:
    """Temporary files of a run, and files that wait to be sent."""

    def __init__(self, run: wandb.Run, cache: str = "") -> None:
        """Redirect the client's temporary folders to the run's folder.

        `cache` is another folder to remove at the end of the run.
        """
        self.data, self.cache = Path(run.settings.sync_dir), cache
        self.temporary = self.data / TEMPORARY
        for left in Path(run.settings.wandb_dir).glob(f"*run-*-{run.id}/{TEMPORARY}"):
            shutil.rmtree(left, ignore_errors=True)  # left by a killed process
        self.temporary.mkdir(parents=True, exist_ok=True)
        for folder in (MEDIA_TMP, wandb.Artifact._TMP_DIR):  # created on import
            folder.cleanup()
            folder.name = str(self.temporary)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Have the client write to the run's folder, unless the user has set WANDB_DATA_DIR."""
        tempdir, data_dir = tempfile.tempdir, os.environ.get(DATA_DIR)
        tempfile.tempdir = str(self.temporary)
        os.environ.setdefault(DATA_DIR, str(self.data))
        try:
            yield
        finally:
            tempfile.tempdir = tempdir
            if data_dir is None:
                del os.environ[DATA_DIR]

    def clear(self, *, sent: bool) -> None:
        """Remove temporary files, and files waiting for `wandb sync` only if all were sent."""
        shutil.rmtree(self.temporary, ignore_errors=True)
        if self.cache:
            shutil.rmtree(self.cache, ignore_errors=True)
        if sent:
            shutil.rmtree(self.data / "artifacts", ignore_errors=True)
