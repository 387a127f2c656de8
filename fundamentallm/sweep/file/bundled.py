"""Sweep files that come with the package, by name, from any folder."""

from __future__ import annotations

import os
from difflib import get_close_matches
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2]
FOLDERS = (PACKAGE / "bundled_sweeps", PACKAGE.parent / "sweeps")
"""Folder of an installed package, and of a checkout."""


@cache
def bundled_sweeps() -> dict[str, Path]:
    """Return the paths of the bundled sweep files by name, such as `lr`."""
    folder = next((each for each in FOLDERS if (each / "lr.yaml").is_file()), None)
    files = () if folder is None else sorted(folder.glob("*.yaml"))
    return {file.stem: file for file in files}


def find_sweep_file(typed: str) -> str:
    """Return the path of a bundled sweep for its name; any other path, or a local file, as it is.

    A local file of the same name, with or without `.yaml`, is preferred.
    """
    if typed not in bundled_sweeps():
        return typed
    local = next((each for each in (typed, f"{typed}.yaml") if os.path.isfile(each)), None)
    return local or str(bundled_sweeps()[typed])


def is_bundled(file: str | Path) -> bool:
    """Return whether this is the path of a bundled file."""
    return Path(file) in bundled_sweeps().values()


def advice(typed: str) -> str:
    """Return what to do about a sweep file that does not exist, such as the names of bundled ones.

    A path to another place is no attempt at such a name.
    """
    names, path = list(bundled_sweeps()), Path(typed)
    if near := get_close_matches(path.stem, names, n=1):
        return f"give a sweep file, or the bundled sweep {near[0]}"
    if len(path.parts) > 1:
        return "give a sweep file"
    return f"give a sweep file, or a bundled sweep: {', '.join(names)}"
