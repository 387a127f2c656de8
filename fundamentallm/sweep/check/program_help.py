"""Check of parameters against the help of another program, which is run once to print it."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from fundamentallm.errors import one_line
from fundamentallm.files import bounded_yaml
from fundamentallm.printable import printable
from fundamentallm.sweep.check.program import python_program
from fundamentallm.sweep.check.program_source import reads_no_arguments
from fundamentallm.sweep.file.diagnostics import Diagnostics
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.file.sweep_file import ENVIRONMENT, SweepFile
from fundamentallm.sweep.program.command import (
    DEFAULT,
    FLAG_MACROS,
    PAIR_MACROS,
    VALUE_MACROS,
    command_words,
    displayed,
    expand,
)
from fundamentallm.sweep.program.location import executable, programs
from fundamentallm.sweep.program.process import ProgramProcess

SECONDS = 20.0
"""Time in which the program has to print its help."""
LARGEST = 1_000_000
"""Bytes of a help that are read."""
VARIABLES = {"COLUMNS": "1000", "NO_COLOR": "1", "TERM": "dumb", "WANDB_MODE": "disabled"}
"""Variables that keep the lines of a help whole, and W&B's client idle."""
OPTION = re.compile(r"(?<![\w-])--(?:\[no-?\])?([A-Za-z](?:[\w.-]*\w)?)")
IS_HELP = re.compile(r"\b(usage|options|flags|arguments)\b", re.IGNORECASE)
IS_HYDRA = re.compile(r"powered by hydra|--hydra-help", re.IGNORECASE)
TAKES_PREFIXES = re.compile(r"^usage: ", re.MULTILINE)
"""Mark of argparse, which accepts the unique beginning of an option."""
TAKES_BOTH_DASHES = re.compile(r"^SYNOPSIS$|^╭─ \w*\s?options ", re.MULTILINE)
"""Marks of Fire and Tyro, which read - and _ as the same."""
HYDRA_GROUP = re.compile(r"^([\w/@.]+): [\w.-]+(?:, [\w.-]+)*$", re.MULTILINE)


class HelpError(Exception):
    """The program printed no help; the message says why."""


@dataclass(frozen=True)
class Hydra:
    """Names that a program of Hydra takes, as it prints them."""

    names: frozenset[str]
    """Full names in its config."""
    groups: frozenset[str]


def ask_program(sweep: SweepFile, diagnostics: Diagnostics) -> None:
    """Run the program's `--help`, and add warnings about parameters that it does not name.

    Runs the command up to its values, as a run would, for at most `SECONDS`. Programs of absl and
    Hydra are asked a second time for their full help, in the same time.
    """
    key = ("command",) if sweep.command else ("program",)
    words = command_words(sweep)
    macros = [word for word in words if word in (*FLAG_MACROS, *PAIR_MACROS)]
    if not macros:
        diagnostics.warn(key, "passes no flags, so --ask-program has nothing to compare")
        return
    program, file = _Program(sweep), python_program(sweep)
    if file is not None and reads_no_arguments(file):
        diagnostics.warn(key, f"{program.name} reads no arguments, so it was not asked for --help")
        return
    try:
        text = program.printed("--help")
        if IS_HYDRA.search(text):
            unknown = _unknown_to_hydra(sweep, _hydra(program, text), macros[0])
        else:
            full = program.printed("--helpfull") if "--helpfull" in text else text
            if macros[0] in PAIR_MACROS:
                raise HelpError("shows no config of Hydra, so the parameters are not compared")
            if not (IS_HELP.search(full) or OPTION.search(full)):
                raise HelpError("names no options, so the parameters are not compared")
            unknown = _unknown_flags(sweep, full)
        for parameter, problem in unknown:
            diagnostics.warn(parameter.key, f"{program.name} --help {problem}")
    except HelpError as error:
        diagnostics.warn(key, f"{program.name} --help {error}")


class _Program:
    """Start of a sweep's command: all words before the values, with subcommands."""

    def __init__(self, sweep: SweepFile) -> None:
        found = programs(sweep)
        last, name = (found[-1].index, found[-1].shown) if found else executable(sweep)
        self.name = displayed(sweep, last, name)
        words = sweep.command or DEFAULT
        values = (index for index, word in enumerate(words) if word in VALUE_MACROS)
        end = next(values, len(words))
        before = [each for each in words[: max(end, last + 1)] if each not in VALUE_MACROS]
        self.given = before
        self.words = expand(replace(sweep, command=tuple(before)), {}, "")
        self.deadline = time.monotonic() + SECONDS

    def printed(self, *flags: str) -> str:
        """Return what the program prints with the flags.

        Raises:
            HelpError: It cannot start, fails, or does not end in time.
        """
        try:
            process = ProgramProcess([*self.words, *flags], os.getcwd(), os.environ | VARIABLES)
        except OSError as error:
            raise HelpError(f"cannot start: {error.strerror}") from None
        output = b""
        try:
            while (left := self.deadline - time.monotonic()) > 0:
                select.select([process.output], [], [], left)
                new = process.read()
                if new is None:
                    process.popen.wait(max(0.1, self.deadline - time.monotonic()))
                    break
                output = (output + new)[:LARGEST]
            else:
                raise HelpError(f"did not end in {SECONDS:.0f} s")
        except subprocess.TimeoutExpired:
            raise HelpError(f"did not end in {SECONDS:.0f} s") from None
        finally:
            process.kill()
            process.close()
        text = output.decode("utf-8", "replace")
        lines = [line for line in text.splitlines() if line.strip()]
        if process.exit_code() and not (IS_HELP.search(text) and OPTION.search(text)):
            last = self.without_secrets(lines[-1]) if lines else "it printed nothing"
            raise HelpError(f"failed with exit code {process.exit_code()}: {last}")
        return text

    def without_secrets(self, line: str) -> str:
        """Return a line for display, without the values of variables that the command names."""
        for name in ENVIRONMENT.findall(" ".join(self.given)):
            if value := os.environ.get(name):
                line = line.replace(value, f"${{envvar:{name}}}")
        return printable(one_line(line, 200))


def _unknown_flags(sweep: SweepFile, text: str) -> Iterator[tuple[Parameter, str]]:
    """Yield the parameters that a help does not name, each with the nearest option."""
    options = set(OPTION.findall(text))
    alike = {each.replace("-", "_"): each for each in sorted(options)}
    for parameter in sweep.parameters:
        name = parameter.path[0]
        begins = [each for each in options if each.startswith(name)]
        if (
            name in options
            or name.partition(".")[0] in options
            or (len(begins) == len(parameter.path) == 1 and TAKES_PREFIXES.search(text))
            or (name.replace("-", "_") in alike and TAKES_BOTH_DASHES.search(text))
        ):
            continue
        if parameter.name in options:
            yield (
                parameter,
                f"names --{parameter.name}, but nested parameters are passed as one mapping, "
                f"--{name}={{...}}; write {parameter.name} as the whole name of the parameter",
            )
            continue
        near = alike.get(name.replace("-", "_")) or _nearest(name, options)
        yield parameter, f"does not name --{name}" + (f"; did you mean --{near}?" if near else "")


def _hydra(program: _Program, text: str) -> Hydra:
    """Return what Hydra's default help says, or the config if the program has its own help."""
    _, _, rest = text.partition("== Configuration groups ==")
    groups, found, config = rest.partition("== Config ==")
    if found:
        config = config.partition("\n\n")[2].rpartition("Powered by Hydra")[0]
    else:
        config = program.printed("--cfg", "job")
    try:
        content = bounded_yaml.load(config)
    except bounded_yaml.YamlError:
        content = None
    if not isinstance(content, dict):
        raise HelpError("shows no config, so the parameters are not compared")
    return Hydra(frozenset(_full_names(content)), frozenset(HYDRA_GROUP.findall(groups)))


def _full_names(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in content.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _full_names(value, f"{prefix}{name}.")


def _unknown_to_hydra(
    sweep: SweepFile, hydra: Hydra, macro: str
) -> Iterator[tuple[Parameter, str]]:
    """Yield the parameters that Hydra refuses, each with why."""
    if macro in FLAG_MACROS:
        return  # the source's check reports that Hydra takes no hyphens
    plus = {"${args_append_hydra}": "+", "${args_override_hydra}": "++"}.get(macro, "")
    for parameter in sweep.parameters:
        word = plus + parameter.path[0]
        name = word.lstrip("+")
        added = len(word) - len(name)
        is_group = name in hydra.groups or name.partition("@")[0] in hydra.groups
        if added >= 2 or is_group or name.startswith(("hydra.", "hydra/", "~")):
            continue
        if added and name in hydra.names:
            yield parameter, f"names {name}, so {word} fails; write ${{args_override_hydra}}"
        elif not added and name not in hydra.names:
            near = _nearest(name, hydra.names | hydra.groups)
            hint = f"did you mean {near}?" if near else f"write +{name} to add it"
            yield parameter, f"does not name {name}; {hint}"


def _nearest(name: str, known: Sequence[str] | set[str] | frozenset[str]) -> str:
    return next(iter(get_close_matches(name, sorted(known), n=1)), "")
