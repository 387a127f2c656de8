"""The file of a report: where it may be written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fundamentallm.errors import FundamentallmError
from fundamentallm.files.atomic import DiskError, read_file

if TYPE_CHECKING:
    from fundamentallm.report.results import Results

NAME = "report.html"
LARGEST = 1 << 30  # bytes of an earlier report
SIGNATURE = b'<footer class="quiet">fundamentallm '
"""What every report has in it."""


def write(results: Results, file: Path, *, refresh: int = 0) -> None:
    """Write the page.

    Raises:
        FundamentallmError: That cannot be done, or something else is there.
    """
    from fundamentallm.report.page import write_report

    check_may_write(file)
    try:
        write_report(results, file, refresh=refresh)
    except DiskError as error:
        raise FundamentallmError(f"--output {error}") from None


def check_may_write(file: Path) -> None:
    """See that there is no file yet, or an earlier report.

    Raises:
        FundamentallmError: Something else is there.
    """
    if file.is_dir():
        raise FundamentallmError(f"--output {file}: this is a folder; give a file name")
    try:
        there = os.path.lexists(file)
        content = read_file(file, LARGEST, root=file.parent) if there else b""
    except OSError as error:
        raise FundamentallmError(f"--output {file}: cannot be read ({error.strerror})") from None
    if content and SIGNATURE not in content:
        raise FundamentallmError(
            f"--output {file}: this file is not a fundamentallm report; move it, or give another "
            "--output"
        )
