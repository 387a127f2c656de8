"""Encoded texts kept on disk, so that the next trial of a sweep need not encode again."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np

WORTH_KEEPING = 1_000_000  # characters; below it, encoding is as quick as opening the file


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/fundamentallm`, by default `~/.cache/fundamentallm`; safe to delete."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fundamentallm"


def load(folder: Path, key: str) -> dict[str, np.ndarray] | None:
    """The arrays kept under `key`, or None if there are none or their checksums fail."""
    try:
        with np.load(folder / f"{key}.npz", allow_pickle=False) as archive:
            return dict(archive)  # zip's CRC-32 of each array is checked as it is read
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def keep(folder: Path, key: str, **arrays: np.ndarray) -> None:
    """Keep `arrays` under `key`; a folder that cannot be written only costs the next run time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(file.name, folder / f"{key}.npz")  # whole or not at all, also for two at once
    except OSError:
        pass
