"""What W&B's client writes beside a run: kept in the run's own folder under `wandb/`, and cleaned.

The client puts a table's or a model's file into a temporary folder, and copies it to the user's
data folder, from where it is sent. It tidies up as Python exits; a trial of a sweep does not exit
that way, nor does what is killed.
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
    """The temporary files of a run, and its files that wait to be sent."""

    def __init__(self, run: wandb.Run, cache: str = "") -> None:
        """Let the client's own temporary folders be there from now on.

        `cache` is a folder more that ends with the run.
        """
        self.data, self.cache = Path(run.settings.sync_dir), cache
        self.temporary = self.data / TEMPORARY
        for left in Path(run.settings.wandb_dir).glob(f"*run-*-{run.id}/{TEMPORARY}"):
            shutil.rmtree(left, ignore_errors=True)  # by an earlier process that was killed
        self.temporary.mkdir(parents=True, exist_ok=True)
        for folder in (MEDIA_TMP, wandb.Artifact._TMP_DIR):  # made as it was imported
            folder.cleanup()
            folder.name = str(self.temporary)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Have the client write there; WANDB_DATA_DIR, where the user has set it, is heeded."""
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
        """Remove what nobody needs: `wandb sync` sends the files that wait, unless all is sent."""
        shutil.rmtree(self.temporary, ignore_errors=True)
        if self.cache:
            shutil.rmtree(self.cache, ignore_errors=True)
        if sent:
            shutil.rmtree(self.data / "artifacts", ignore_errors=True)
