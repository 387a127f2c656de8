"""Diagnostics of a sweep file for `check` and `sweep`: all at once, in the file's order."""

from __future__ import annotations

from collections.abc import Sequence

import click

from fundamentallm.cli.messages import show
from fundamentallm.cli.sweep_flags import SharedSettings, read_shared_settings
from fundamentallm.errors import FundamentallmError
from fundamentallm.sweep.check.program import check_program
from fundamentallm.sweep.check.search_source import check_search_source
from fundamentallm.sweep.check.warnings import check_any, check_meaning
from fundamentallm.sweep.file.diagnostics import Diagnostics
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.program.ownership import is_ours
from fundamentallm.sweep.search.space import SearchSpace, check_space


def examine(
    sweep: SweepFile,
    words: Sequence[str],
    data: str | None,
    *,
    exists: bool = False,
    starting: bool = False,
) -> SharedSettings | None:
    """Run all checks on a sweep and add their diagnostics to `sweep.diagnostics`.

    Args:
        sweep: Sweep as far as it could be parsed.
        words: Flags for every run.
        data: Path of the text; None if the sweep names it.
        exists: Whether our trainer has already run it, whatever program its file names now.
        starting: Whether it is to start here, so that a missing program is an error.

    Returns:
        Settings that all runs share; None for another program.

    Raises:
        FundamentallmError, click.UsageError: Wrong flags, after the diagnostics.
    """
    findings = sweep.diagnostics
    check_any(sweep, findings)
    check_search_source(sweep, findings)
    is_foreign = not (exists or is_ours(sweep))
    try:
        if is_foreign:
            _check_no_arguments(sweep, [*filter(None, [data]), *words])
            check_program(sweep, findings, starting=starting)
            return None
        shared = read_shared_settings(sweep, words)
    except (FundamentallmError, click.UsageError):
        show_diagnostics(findings)
        raise
    findings.add(check_space(sweep, shared.settings))
    characters = _characters(data) if sweep.hyperband is not None else None
    check_meaning(SearchSpace(sweep, shared.settings), findings, characters)
    return shared


def show_diagnostics(findings: Diagnostics) -> None:
    """Print all diagnostics, a line each."""
    for each in findings.sorted():
        show(f"{each.level}: {each.text(findings.file)}", err=True)


def _check_no_arguments(sweep: SweepFile, arguments: Sequence[str]) -> None:
    """Check that nothing is given that only our trainer understands.

    Raises:
        click.UsageError: A text or a flag is given.
    """
    if arguments:
        raise click.UsageError(
            f"{arguments[0]}: {sweep.file} starts another program than fundamentallm train; give "
            "its arguments in the file's command"
        )


def _characters(data: str | None) -> int | None:
    """Return the length of the text; None if it cannot be read, which is reported later."""
    if data is None:
        return None
    from fundamentallm.data.text import read_lasting_text

    try:
        return read_lasting_text(data).length
    except FundamentallmError:
        return None
