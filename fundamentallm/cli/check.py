"""`fundamentallm check`: what a sweep file means and costs, before it runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fundamentallm import exit_codes
from fundamentallm.cli.options import PATH
from fundamentallm.cli.sweep_flags import read_every_run
from fundamentallm.errors import FundamentallmError
from fundamentallm.sweep.checking import check_meaning, size, unscored
from fundamentallm.sweep.findings import Finding, Findings, SweepError
from fundamentallm.sweep.points import Points, check_points, is_ours
from fundamentallm.sweep.repairing import repaired
from fundamentallm.sweep.spec import read_sweep

if TYPE_CHECKING:
    from fundamentallm.sweep.costing import Costs
    from fundamentallm.text import Text

WARNED = exit_codes.FAILED


@click.command()
@click.argument("file", metavar="SWEEP.YAML", type=PATH)
@click.argument("words", metavar="[DATA.TXT] [-- FLAGS OF EVERY RUN]", nargs=-1, type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.option(
    "--repaired",
    "repaired_file",
    type=PATH,
    metavar="FILE",
    help="Write the sweep as it should be.",
)
def check(file: str, words: tuple[str, ...], as_json: bool, repaired_file: str | None) -> int:
    """Look for mistakes and traps in a sweep file, at once; with DATA.TXT, also for its cost.

    With a text ("built-in" for the one that Python carries), the cheapest and the dearest run are
    tried for some steps. Exit codes: 0 nothing found, 1 warnings, 2 mistakes.
    """
    data = words[0] if words and not words[0].startswith("-") else None
    found: list[Finding] = []
    points: Points | None = None
    device = "auto"
    try:
        sweep = read_sweep(file)
        findings = Findings(file)
        if is_ours(sweep):
            every = read_every_run(sweep, words[1:] if data else words)
            fixed, device = every.settings, every.device
            findings = check_points(sweep, fixed)
            points = Points(sweep, fixed)
            if not findings.errors:
                text = _read(data)
                check_meaning(points, findings, text.length if text is not None else None)
                for line in unscored(points, text) if text is not None else ():
                    findings.warn((), line)
        found = [*sweep.warnings, *findings.sorted()]
    except SweepError as error:
        return _refused(str(error), as_json)
    errors = any(each.level == "error" for each in found)
    runs, says = size(points) if points is not None and not errors else (None, "")
    costs = None
    if data is not None and points is not None and not errors:
        from fundamentallm.sweep.costing import measure_costs

        costs = measure_costs(points, data, device)
    _show(file, found, runs, says, costs, as_json)
    if repaired_file and points is not None and not errors:
        _write_repaired(points, Path(repaired_file))
    if points is None:
        click.echo(f"{file}: another program's sweep: its parameters are not checked", err=True)
    if errors:
        return exit_codes.BAD_INPUT
    doubtful = costs is not None and not costs.known
    return WARNED if found or doubtful else exit_codes.DONE


def _read(data: str | None) -> Text | None:
    if data is None:
        return None
    from fundamentallm.text import read_text

    return read_text(data)


def _refused(message: str, as_json: bool) -> int:
    """The mistakes of a file that is no sweep."""
    lines = message.splitlines()
    if as_json:
        click.echo(json.dumps({"findings": [{"level": "error", "message": x} for x in lines]}))
    for line in lines:
        click.echo(f"error: {line}", err=True)
    return exit_codes.BAD_INPUT


def _show(
    file: str, found: list[Finding], runs: int | None, says: str, costs: Costs | None, json_: bool
) -> None:
    if json_:
        content: dict[str, Any] = {"findings": [asdict(each) for each in found], "runs": runs}
        content |= {"costs": asdict(costs)} if costs is not None else {}
        click.echo(json.dumps(content, indent=2))
        return
    for each in sorted(found, key=lambda each: each.line):
        click.echo(f"{each.level}: {each.text(file)}", err=True)
    if says:
        click.echo(f"{file}: {says}")
    for line in costs.lines() if costs is not None else ():
        click.echo(line)


def _write_repaired(points: Points, file: Path) -> None:
    text = repaired(points)
    if text is None:
        click.echo(f"there is nothing to repair; {file} is not written", err=True)
        return
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    except OSError as error:
        raise FundamentallmError(f"--repaired {file}: {error.strerror}; give a new file") from None
    click.echo(f"repaired: {file}")
