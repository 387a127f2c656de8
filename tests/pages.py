"""Files that a page of the docs shows: code blocks that begin with a comment of the name alone."""

from __future__ import annotations

import re
from pathlib import Path

BLOCK = re.compile(r"^```\w+\n# ([\w.-]+\.(?:py|yaml))\n(.*?)^```", flags=re.M | re.S)


def write_files(page: Path, folder: Path) -> list[str]:
    """Write the files of a page into `folder`, and return their names."""
    files = dict(BLOCK.findall(page.read_text("utf-8")))
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
    return list(files)
