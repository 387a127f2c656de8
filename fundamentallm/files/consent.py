"""Consent: record what this user requested for a folder, in the user's own state folder.

A sweep or a run may come from other people, and its files must not decide where text, samples and
settings are sent. What a command line requested is recorded here, and a folder that requests the
same later is trusted with that and nothing else. A folder is known by its path or, if it was moved,
by its device and inode; a copy is another folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fundamentallm.files.atomic import DiskError, replace_text
from fundamentallm.files.held_folder import HeldFolder, read_up_to

LARGEST_NOTE = 1 << 16
"""Maximum bytes of a folder's record."""


def state_folder() -> Path:
    """Return `$XDG_STATE_HOME/fundamentallm`, by default `~/.local/state/fundamentallm`.

    A relative path is ignored, as its standard demands: it could lead into a folder from others.

    Raises:
        FileNotFoundError: There is no home folder.
    """
    given = os.environ.get("XDG_STATE_HOME", "")
    try:
        base = Path(given) if os.path.isabs(given) else Path("~/.local/state").expanduser()
    except RuntimeError:
        advice = "no home folder; set XDG_STATE_HOME to a folder"
        raise FileNotFoundError(errno.ENOENT, advice, "~/.local/state") from None
    return base / "fundamentallm"


def remember(folder: Path, **asked: str) -> str:
    """Record what this user requested for `folder`, beside earlier requests.

    Returns:
        Why it cannot be recorded, in one line; "" if it was.
    """
    note = _identity(folder)
    name = _name(note)
    try:
        notes = state_folder() / "folders"
        notes.mkdir(mode=0o700, parents=True, exist_ok=True)
        with HeldFolder(notes) as held:
            before = _read(held, name)
        if before and before["inode"] == note["inode"]:
            asked = {**before["asked"], **asked}
        text = json.dumps({**note, "asked": asked}) + "\n"
        replace_text(notes / name, text, part=f".{name}-{os.getpid()}")
    except (OSError, DiskError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        return f"what you asked for in {folder} is not recorded, and will be asked again ({reason})"
    return ""


def was_asked(folder: Path, **asked: str) -> bool:
    """Return whether this user requested exactly this for `folder`; False if unknown."""
    here = _identity(folder)
    try:
        with HeldFolder(state_folder() / "folders") as held:
            own = _name(here)
            for name in sorted(held.names("*.json"), key=lambda name: name != own):
                note = _read(held, name)
                if _is_same(note, here) and asked.items() <= note["asked"].items():
                    return True
    except OSError:
        pass
    return False


def _identity(folder: Path) -> dict[str, Any]:
    """Return the folder's path and, if it exists, its device and inode."""
    try:
        status = os.stat(folder)
    except OSError:
        return {"path": os.path.realpath(folder), "device": None, "inode": None}
    return {"path": os.path.realpath(folder), "device": status.st_dev, "inode": status.st_ino}


def _name(identity: Mapping[str, Any]) -> str:
    path = os.fsencode(identity["path"])
    return f"{hashlib.sha256(path).hexdigest()[:32]}.json"


def _is_same(note: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    if not note:
        return False
    moved = here["inode"] is not None and (note["device"], note["inode"]) == (
        here["device"], here["inode"],
    )  # fmt: skip
    return note["path"] == here["path"] or moved


def _read(notes: HeldFolder, name: str) -> dict[str, Any]:
    """Read a record that this user wrote; empty if there is none."""
    try:
        with notes.open(name, "rb") as file:
            if hasattr(os, "geteuid") and os.fstat(file.fileno()).st_uid != os.geteuid():
                return {}
            note = json.loads(read_up_to(file, LARGEST_NOTE))
    except (OSError, ValueError, RecursionError):
        return {}
    whole = isinstance(note, dict) and {"path", "device", "inode", "asked"} <= note.keys()
    return note if whole and isinstance(note["asked"], dict) else {}
