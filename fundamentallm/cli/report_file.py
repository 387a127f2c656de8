"""Writing of a report, only over an earlier one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fundamentallm.errors import FundamentallmError
from fundamentallm.files.atomic import DiskError, read_file

if TYPE_CHECKING:
    from fundamentallm.report.results import Results

REPORT_NAME = "report.html"
MAX_BYTES = 1 << 30  # bytes of an earlier report
SIGNATURE = b'<footer class="quiet">fundamentallm '
"""Part of every report."""


def save_report(results: Results, file: Path, *, refresh: int = 0) -> None:
    """Write the page.

    Raises:
        FundamentallmError: The file cannot be written, or is not a report.
    """
    from fundamentallm.report.page import write_report

    check_may_write(file)
    try:
        write_report(results, file, refresh=refresh)
    except DiskError as error:
        raise FundamentallmError(f"--output {error}") from None


def check_may_write(file: Path) -> None:
    """Check that there is no file yet, or an earlier report.

    Raises:
        FundamentallmError: The file is something else.
    """
    if file.is_dir():
        raise FundamentallmError(f"--output {file}: this is a folder; give a file name")
    try:
        exists = os.path.lexists(file)
        content = read_file(file, MAX_BYTES, root=file.parent) if exists else b""
    except OSError as error:
        raise FundamentallmError(f"--output {file}: cannot be read ({error.strerror})") from None
    if content and SIGNATURE not in content:
        raise FundamentallmError(
            f"--output {file}: this file is not a fundamentallm report; move it, or give another "
            "--output"
        )
