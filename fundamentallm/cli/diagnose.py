"""What `check` and `sweep` find in a sweep file: the same, all at once, in the file's order."""

from __future__ import annotations

from collections.abc import Sequence

import click

from fundamentallm.cli.messages import say
from fundamentallm.cli.sweep_flags import EveryRun, read_every_run
from fundamentallm.errors import FundamentallmError
from fundamentallm.sweep.check.warnings import check_any, check_meaning
from fundamentallm.sweep.file.diagnostics import Diagnostics
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.program import OUR_COMMAND, command_line, is_ours, missing_program
from fundamentallm.sweep.search.space import SearchSpace, check_space


def examine(
    sweep: SweepFile, words: Sequence[str], data: str | None, *, begun: bool = False
) -> EveryRun | None:
    """Look at a sweep from all sides; what is found goes to `sweep.findings`.

    Args:
        sweep: As far as it was understood.
        words: Flags of every run.
        data: Where the text lies; None if the sweep says so itself.
        begun: Whether our trainer has begun it already, whatever its file starts now.

    Returns:
        What all runs share; None of a stranger's program, whose parameters nobody here knows.

    Raises:
        FundamentallmError, click.UsageError: The flags are wrong; said after what the file has.
    """
    findings = sweep.findings
    check_any(sweep, findings)
    if not (begun or is_ours(sweep)):
        return None
    try:
        every = read_every_run(sweep, words)
    except (FundamentallmError, click.UsageError):
        show(findings)
        raise
    findings.add(check_space(sweep, every.settings))
    characters = _characters(data) if sweep.hyperband is not None else None  # else nobody asks
    check_meaning(SearchSpace(sweep, every.settings), findings, characters)
    return every


def show(findings: Diagnostics) -> None:
    """All that was found, a line each."""
    for each in findings.sorted():
        say(f"{each.level}: {each.text(findings.file)}", err=True)


def of_a_stranger(sweep: SweepFile) -> str:
    """What keeps our trainer from a sweep, in a line."""
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
    """Of the text; None if it cannot be read, which its reader will say."""
    if data is None:
        return None
    from fundamentallm.data.text import read_lasting_text

    try:
        return read_lasting_text(data).length
    except FundamentallmError:
        return None
