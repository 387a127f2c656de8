"""Checks of a sweep of another program, without running it: whether its command can start."""

from __future__ import annotations

import re
from pathlib import Path

from fundamentallm.sweep.check.program_source import check_source
from fundamentallm.sweep.file.diagnostics import Diagnostics, Key
from fundamentallm.sweep.file.distributions import Categorical
from fundamentallm.sweep.file.schema import MACROS
from fundamentallm.sweep.file.sweep_file import SweepFile, is_macro
from fundamentallm.sweep.program.command import (
    FLAG_MACROS,
    PAIR_MACROS,
    VALUE_MACROS,
    command_words,
    why_not_a_word,
)
from fundamentallm.sweep.program.location import Program, executable, programs, why_not_started
from fundamentallm.sweep.program.ownership import OUR_COMMAND, find_script
from fundamentallm.sweep.search.base import too_many_configurations


def check_program(sweep: SweepFile, diagnostics: Diagnostics, *, starting: bool) -> None:
    """Check a sweep of another program as far as possible without running it.

    Args:
        sweep: Sweep of a foreign program.
        diagnostics: Receives the diagnostics.
        starting: True if the sweep is to start here and now, so that a missing program is an error.
    """
    check_function(sweep, diagnostics)
    _check_words(sweep, diagnostics)
    note = diagnostics.error if starting else diagnostics.warn
    if has_no_program(sweep):
        note(("program",), _started_otherwise(sweep))
        return
    words = [word for word in command_words(sweep) if not is_macro(word) or word[2:-1] in MACROS]
    if not words:
        diagnostics.error(("command",), "has no word that W&B does not drop; give a program")
        return
    if words[0] in VALUE_MACROS:
        diagnostics.error(
            ("command", 0),
            f"{words[0]} is not a program, but a command starts with one: "
            f'["${{interpreter}}", "${{program}}", "{words[0]}"]',
        )
        return
    if reason := why_not_started(sweep):
        note(*reason)
    first, _ = executable(sweep)
    missing = [
        each
        for each in programs(sweep)
        if not each.is_module and each.file is None and each.index != first
    ]
    for program in missing:
        note(program.key, _missing(program, sweep))
    file = python_program(sweep)
    if file is not None and not missing:
        check_source(sweep, file, diagnostics)


def check_function(sweep: SweepFile, diagnostics: Diagnostics) -> None:
    """Check a sweep of a foreign program or Python function, apart from how it is started."""
    diagnostics.hold_to_wandb()
    if sweep.method == "grid" and (too_large := too_many_configurations(sweep.parameters)):
        diagnostics.error(("parameters",), too_large)


def python_program(sweep: SweepFile) -> Path | None:
    """Return the program that the command runs, if it is a Python file in the current folder."""
    found = programs(sweep)
    file = found[-1].file if found else None
    return file if file is not None and file.suffix == ".py" else None


def has_no_program(sweep: SweepFile) -> bool:
    """Return whether the command needs a program, but the file names none."""
    return not sweep.program and (not sweep.command or "${program}" in sweep.command)


def _started_otherwise(sweep: SweepFile) -> str:
    """Return the message for a file that names no program."""
    if job := sweep.content.get("job") or sweep.content.get("image_uri"):
        return f"is missing: W&B Launch starts {job}; to run it here, give the script inside it"
    return (
        "is missing, so only Python can start this sweep: fundamentallm.run_sweep(config, "
        "function=...), or on W&B wandb.agent(ID, function=...)"
    )


def _missing(program: Program, sweep: SweepFile) -> str:
    name = program.name
    says = f"{program.shown} does not exist in the current folder"
    if (found := find_script(name, sweep)) is not None:
        folder = found.parent.resolve()
        return f"{says}, from which W&B's agent starts it too; change to {folder} first"
    if " " in name and Path(name.split()[0]).is_file():
        return f"{says}; give the script alone, and its flags in command"
    if Path(name).name == "train.py":
        return f"{says}; to train fundamentallm's own model, set command: {OUR_COMMAND}"
    return f"{says}; change to its folder first"


def _check_words(sweep: SweepFile, diagnostics: Diagnostics) -> None:
    """Check each word of the command, and each text that becomes one."""
    texts: dict[Key, str] = {("program",): sweep.program}
    for parameter in sweep.parameters:
        texts[parameter.key] = parameter.name
        if isinstance(parameter.distribution, Categorical):
            texts[(*parameter.key, "values")] = "".join(map(str, parameter.distribution.values))
    texts |= {("command", index): word for index, word in enumerate(sweep.command)}
    for key, text in texts.items():
        if problem := why_not_a_word(text):
            diagnostics.error(key, problem)
    flags, pairs = (set(sweep.command) & set(m) for m in (FLAG_MACROS, PAIR_MACROS))
    for index, word in enumerate(sweep.command):
        name, equals, _ = word.partition("=")
        if word.startswith("-") and re.search(r"\s-", word):
            diagnostics.warn(
                ("command", index),
                f"{word[:60]!r} is one word for the program; give each flag an entry of its own",
            )
        elif any(
            (flags and name == f"--{each}") or (pairs and equals and name.lstrip("+") == each)
            for each in {parameter.path[0] for parameter in sweep.parameters}
        ):
            diagnostics.warn(
                ("command", index),
                f"{name} is also a parameter, so the program gets it twice; remove one of them",
            )
