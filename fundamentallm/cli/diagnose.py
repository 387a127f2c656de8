"""Diagnostics of a sweep file for `check` and `sweep`: all at once, in the file's order."""

from __future__ import annotations

from collections.abc import Sequence

import click

from fundamentallm.cli.messages import show
from fundamentallm.cli.sweep_flags import SharedSettings, read_shared_settings
from fundamentallm.errors import FundamentallmError
from fundamentallm.sweep.check.warnings import check_any, check_meaning
from fundamentallm.sweep.file.diagnostics import Diagnostics
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.program.command import command_line
from fundamentallm.sweep.program.ownership import OUR_COMMAND, is_ours, missing_program
from fundamentallm.sweep.search.space import SearchSpace, check_space


def examine(
    sweep: SweepFile, words: Sequence[str], data: str | None, *, exists: bool = False
) -> SharedSettings | None:
    """Run all checks on a sweep and add their diagnostics to `sweep.diagnostics`.

    Args:
        sweep: Sweep as far as it could be parsed.
        words: Flags for every run.
        data: Path of the text; None if the sweep names it.
        exists: Whether our trainer has already run it, whatever program its file names now.

    Returns:
        Settings that all runs share; None for another program, whose parameters are unknown.

    Raises:
        FundamentallmError, click.UsageError: Wrong flags, after the diagnostics.
    """
    findings = sweep.diagnostics
    check_any(sweep, findings)
    if not (exists or is_ours(sweep)):
        return None
    try:
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


def foreign_program_message(sweep: SweepFile) -> str:
    """Return why our trainer cannot run a sweep, in a line."""
    script, starts = missing_program(sweep), command_line(sweep)
    if script is not None:
        return (
            f"{script} does not exist; to train fundamentallm's own model, set command: "
            f"{OUR_COMMAND}"
        )
    return (
        f"starts `{starts}`, but so far fundamentallm runs only its own trainer; start this sweep "
        f"with wandb sweep {sweep.file}"
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
