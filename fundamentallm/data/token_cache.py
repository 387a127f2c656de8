"""Cache of encoded texts on disk, so that trials need not encode again or hold a text in memory.

A text's tokens are one file, mapped into the memory of every process that trains on them. A second
file holds their vocabulary and checksum.
"""

from __future__ import annotations

import json
import os
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from fundamentallm.files.held_folder import HeldFolder

WORTH_KEEPING = 1_000_000  # characters; below it, encoding is as quick as opening the file
LARGEST_JSON = 1 << 24  # bytes; a vocabulary of 65,534 characters takes 1 MB
TYPES = {"uint8": np.uint8, "uint16": np.uint16}  # no others: `object` would hold addresses
PIECE = 1 << 24  # tokens checked at a time
LEFT_BEHIND = 24 * 3600  # seconds after which leftovers of killed processes are removed


def cache_folder() -> Path:
    """Return `$XDG_CACHE_HOME/fundamentallm`, by default `~/.cache/fundamentallm`; safe to delete.

    Raises:
        FileNotFoundError: There is no home folder.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fundamentallm"
    except RuntimeError:
        raise FileNotFoundError("there is no home folder; set XDG_CACHE_HOME to a folder") from None


def load(folder: Path, key: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Load the parts of the text stored under `key`, each (T,), and its facts; None if damaged."""
    try:
        with HeldFolder(folder, folder.parent) as held:
            kept = json.loads(held.read(f"{key}.json", LARGEST_JSON))
            lengths, facts = kept["lengths"], kept["facts"]
            if not (isinstance(facts, dict) and all(_is_length(each) for each in lengths.values())):
                return None
            with held.open(f"{key}.tokens", "rb") as file:
                tokens = np.asarray(np.memmap(file, TYPES[kept["dtype"]], "r"))
        if len(tokens) != sum(lengths.values()) or _checksum(tokens) != kept["checksum"]:
            return None
        parts = np.split(tokens, list(accumulate(lengths.values()))[:-1])
        return dict(zip(lengths, parts, strict=True)), facts
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _is_length(found: object) -> bool:
    return type(found) is int and found >= 0


def keep(folder: Path, key: str, parts: Mapping[str, Iterable[np.ndarray]], **facts: Any) -> bool:
    """Store the parts of a text, each in pieces of one dtype; return whether it succeeded."""
    checksum, dtype = 0, "uint8"
    lengths = dict.fromkeys(parts, 0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with HeldFolder(folder, folder.parent) as held, _new_folder(held) as new:
            with new.open("tokens", "xb") as file:
                for part, pieces in parts.items():
                    for piece in pieces:
                        file.write(raw := piece.tobytes())
                        lengths[part] += len(piece)
                        checksum, dtype = zlib.crc32(raw, checksum), piece.dtype.name
            kept = {"lengths": lengths, "dtype": dtype, "checksum": checksum, "facts": facts}
            with new.open("json", "xb") as file:
                file.write(json.dumps(kept).encode())
            # Two concurrent writers write the same; files that do not match are not used.
            for ending in ("tokens", "json"):
                new.move(ending, f"{key}.{ending}", held)
    except OSError:
        return False
    return True


@contextmanager
def _new_folder(folder: HeldFolder) -> Iterator[HeldFolder]:
    """Create a folder for new files, and remove those that killed processes left."""
    for begun in folder.names("new-*"):
        if time.time() - folder.age(begun) > LEFT_BEHIND:
            folder.remove_tree(begun)
    name = f"new-{uuid.uuid4().hex}"
    folder.make_folder(name)
    try:
        with HeldFolder(folder.path / name, folder.path.parent) as new:
            yield new
    finally:
        folder.remove_tree(name)


def _checksum(tokens: np.ndarray) -> int:
    checksum = 0
    for start in range(0, len(tokens), PIECE):
        checksum = zlib.crc32(tokens[start : start + PIECE].data, checksum)
    return checksum


def largest(tokens: np.ndarray) -> int:
    """Return the largest of `tokens`, (T,), read in pieces; -1 if there are none."""
    starts = range(0, len(tokens), PIECE)
    return max((int(tokens[start : start + PIECE].max()) for start in starts), default=-1)
