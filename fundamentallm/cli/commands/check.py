"""`fundamentallm check`: what a sweep file means and costs, before it runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fundamentallm import exit_codes
from fundamentallm.cli.diagnose import examine, show_diagnostics
from fundamentallm.cli.json_output import json_option, show_json
from fundamentallm.cli.messages import show
from fundamentallm.cli.options import PATH, SWEEP_FILE, concurrency_options
from fundamentallm.cli.sweep_flags import SharedSettings
from fundamentallm.errors import FundamentallmError
from fundamentallm.sweep.check.program import has_no_program
from fundamentallm.sweep.check.repair import repaired
from fundamentallm.sweep.check.warnings import size, unscored
from fundamentallm.sweep.file.diagnostics import Diagnostics, SweepError
from fundamentallm.sweep.file.sweep_file import SweepFile, examine_sweep
from fundamentallm.sweep.keep import KEPT_CONFIGURATIONS
from fundamentallm.sweep.program.command import command_line
from fundamentallm.sweep.search.space import SearchSpace

if TYPE_CHECKING:
    from fundamentallm.sweep.check.cost import Costs

WARNED = exit_codes.FAILED


@click.command()
@click.argument("file", metavar="SWEEP.YAML", type=SWEEP_FILE)
@click.argument("words", metavar="[DATA.TXT] [-- FLAGS FOR EVERY RUN]", nargs=-1, type=PATH)
@json_option
@click.option(
    "--repaired",
    "repaired_file",
    type=PATH,
    metavar="FILE",
    help="Write a corrected sweep to FILE.",
)
@click.option(
    "--ask-program",
    "asks",
    is_flag=True,
    help="Run another program's --help, to compare its options with the parameters.",
)
@concurrency_options
def check(
    file: str,
    words: tuple[str, ...],
    as_json: bool,
    repaired_file: str | None,
    asks: bool,
    workers: int | None,
    workers_per_gpu: int | None,
) -> int:
    """Check a sweep file for mistakes, traps and cost.

    SWEEP.YAML is a file, or the name of a bundled sweep, such as lr. The cost needs DATA.TXT: the
    cheapest and the dearest run are tried on it for a few steps, as many at a time as `sweep`
    would run. DATA.TXT may be built-in, the text that comes with Python.
    Exit codes: 0 clean, 1 warnings, 2 mistakes.
    """
    data = words[0] if words and not words[0].startswith("-") else None
    try:
        sweep = examine_sweep(file)
    except SweepError as error:
        return _refused(str(error), as_json)
    findings = sweep.diagnostics
    shared = examine(sweep, words[1:] if data else words, data, starting=asks)
    if asks:
        _ask_program(sweep, shared)
    settings = {} if shared is None else shared.settings
    space = SearchSpace(sweep, settings, is_ours=shared is not None)
    space = space if all(each.is_unambiguous for each in findings.errors) else None
    runs, size_text = size(space) if space is not None else (None, "")
    if not as_json:
        show_diagnostics(findings)
        if size_text and shared is None and not has_no_program(sweep):
            show(f"{file}: each run starts `{command_line(sweep)}`")
        if size_text:
            show(f"{file}: {size_text}")
    costs = None
    if data is not None and shared is not None and space is not None and not findings.errors:
        of_text = _check_text(space, data)
        findings.add(of_text)
        if not as_json:
            show_diagnostics(of_text)
        from fundamentallm.cli.worker import resources_here
        from fundamentallm.sweep.check.cost import measure_costs

        resources = resources_here(workers, workers_per_gpu, shared.device, runs)
        costs = measure_costs(space, data, resources, kept=KEPT_CONFIGURATIONS)
    if as_json:
        _print_json(findings, runs, costs)
    else:
        for line in costs.lines() if costs is not None else ():
            show(line)
    if repaired_file and space is not None:
        _write_repaired(space, Path(repaired_file))
    if findings.errors:
        return exit_codes.BAD_INPUT
    cost_unknown = costs is not None and not costs.known
    return WARNED if findings.found or cost_unknown else exit_codes.DONE


def _ask_program(sweep: SweepFile, shared: SharedSettings | None) -> None:
    if shared is not None:
        raise click.UsageError(f"--ask-program: {sweep.file} starts fundamentallm train itself")
    if not sweep.diagnostics.errors:
        from fundamentallm.sweep.check.program_help import ask_program

        ask_program(sweep, sweep.diagnostics)


def _check_text(space: SearchSpace, data: str) -> Diagnostics:
    """Return warnings about characters of the text that runs cannot be scored on."""
    from fundamentallm.data.text import read_lasting_text

    findings = Diagnostics(space.sweep.file)
    for line in unscored(space, read_lasting_text(data)):
        findings.warn((), line)
    return findings


def _refused(message: str, as_json: bool) -> int:
    """Print the errors of a file that is not a sweep."""
    lines = message.splitlines()
    if as_json:
        show_json({"findings": [{"level": "error", "message": x} for x in lines]})
    for line in lines:
        show(f"error: {line}", err=True)
    return exit_codes.BAD_INPUT


def _print_json(findings: Diagnostics, runs: int | None, costs: Costs | None) -> None:
    fields = ("level", "line", "key", "message")
    found = [{name: getattr(each, name) for name in fields} for each in findings.sorted()]
    content: dict[str, Any] = {"findings": found, "runs": runs}
    content |= {"costs": asdict(costs)} if costs is not None else {}
    show_json(content)


def _write_repaired(space: SearchSpace, file: Path) -> None:
    text = repaired(space)
    if text is None:
        show(f"nothing to repair; {file} is not written", err=True)
        return
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    except OSError as error:
        raise FundamentallmError(f"--repaired {file}: {error.strerror}; give a new file") from None
    show(f"repaired: {file}")
