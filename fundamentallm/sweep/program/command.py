"""Command of a run: the words of the sweep file, with its macros replaced as W&B's agent does."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fundamentallm.printable import printable
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import ENVIRONMENT, SweepFile, is_macro
from fundamentallm.sweep.search.base import PastRun, Search

DEFAULT = ("${env}", "${interpreter}", "${program}", "${args}")
"""Default command, as in W&B."""
ENV = () if os.name == "nt" else ("/usr/bin/env",)
INTERPRETER = "python"
FLAG_MACROS = ("${args}", "${args_no_equals}", "${args_no_boolean_flags}")
"""Macros that pass values as `--name`."""
PAIR_MACROS = ("${args_no_hyphens}", "${args_append_hydra}", "${args_override_hydra}")
"""Macros that pass values as `name=value`."""
VALUE_MACROS = (*FLAG_MACROS, *PAIR_MACROS, "${args_json}", "${args_json_file}")


def expand(
    sweep: SweepFile,
    nested: Mapping[str, Any],
    json_file: str,
    environment: Mapping[str, str] = os.environ,
) -> list[str]:
    """Return the words that start a run.

    Args:
        sweep: Sweep of the run.
        nested: Values of the run as `SweepFile.nested` returns them.
        json_file: Path for `${args_json_file}`; the caller writes the file.
        environment: Variables for `${envvar:NAME}`; an unknown one is replaced by its name.

    Raises:
        SweepError: No word is left, or a program cannot receive one of them.
    """
    macros, words = _macros(sweep, nested, json_file), list[str]()
    for index, word in enumerate(command_words(sweep, environment)):
        replacing = macros.get(word[2:-1], ()) if is_macro(word) else (word,)
        for each in replacing:
            if problem := why_not_a_word(each):
                told = displayed(sweep, index, each)[:80]
                raise SweepError(f"{sweep.file}: command: {told!r} {problem}")
        words += replacing
    if not words:
        raise SweepError(f"{sweep.file}: command: is empty once its macros are replaced")
    return words


def json_text(nested: Mapping[str, Any]) -> str:
    """Return the values as `${args_json}` and the file of `${args_json_file}` hold them."""
    return json.dumps(nested)


def shown(sweep: SweepFile, nested: Mapping[str, Any], json_file: str) -> str:
    """Return a run's command as a line to display or store.

    Environment variables stay unexpanded: one may hold a secret.
    """
    return _line(sweep, _macros(sweep, nested, json_file))


def command_line(sweep: SweepFile) -> str:
    """Return the command of all runs as a line to display; `${args}` and the like stay."""
    return _line(sweep, fixed_macros(sweep), others_stay=True)


def dry_run_lines(
    sweep: SweepFile, search: Search, json_file: Callable[[int], str], count: int
) -> Iterator[str]:
    """Yield the commands of the first `count` runs, as they are before any run has a score.

    Args:
        sweep: Sweep of the runs.
        search: Search that suggests their values.
        json_file: Returns the path for `${args_json_file}` of run `k`, from 0.
        count: Number of runs.
    """
    started: list[PastRun] = []
    for k in range(count if search.size is None else min(count, search.size)):
        values = search.suggest(k, started)
        if values is None:
            return
        started.append(PastRun(values, None, running=True))
        yield shown(sweep, sweep.nested(values), json_file(k))


def command_words(sweep: SweepFile, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the words of the command, or of the default one, with variables replaced."""
    return [
        ENVIRONMENT.sub(lambda match: environment.get(match[1], match[1]), word)
        for word in _command(sweep)
    ]


def displayed(sweep: SweepFile, index: int, word: str) -> str:
    """Return a word of the command for display: as in the file if it names a variable."""
    given = _command(sweep)[index]
    return given if ENVIRONMENT.search(given) else word


def why_not_a_word(word: str) -> str:
    """Return why no program can receive a word; "" if it can."""
    if "\0" in word:
        return "holds a NUL byte, which no program can receive; remove it"
    try:
        os.fsencode(word)
    except UnicodeEncodeError:
        return "holds a character that no program can receive; remove it"
    return ""


def _command(sweep: SweepFile) -> Sequence[str]:
    return sweep.command or DEFAULT


def _line(
    sweep: SweepFile, macros: Mapping[str, Sequence[str]], *, others_stay: bool = False
) -> str:
    words: list[str] = []
    for word in _command(sweep):
        if ENVIRONMENT.search(word) or not is_macro(word):
            words.append(shlex.quote(word))
        elif others_stay and word[2:-1] not in macros:
            words.append(word)
        else:
            words += map(shlex.quote, macros.get(word[2:-1], ()))
    return printable(" ".join(words), lines=False)


def fixed_macros(sweep: SweepFile) -> dict[str, Sequence[str]]:
    """Return the words of the macros that are the same for all runs."""
    return {"env": ENV, "interpreter": (INTERPRETER,), "program": (sweep.program,)}


def _macros(
    sweep: SweepFile, nested: Mapping[str, Any], json_file: str
) -> dict[str, Sequence[str]]:
    """Return the words that replace each macro."""
    pairs = [f"{name}={value}" for name, value in nested.items()]
    return {
        **fixed_macros(sweep),
        "args": [f"--{pair}" for pair in pairs],
        "args_no_hyphens": pairs,
        "args_no_equals": [
            word for name, value in nested.items() for word in (f"--{name}", str(value))
        ],
        "args_no_boolean_flags": [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in nested.items()
            if value is not False
        ],
        "args_append_hydra": [f"+{pair}" for pair in pairs],
        "args_override_hydra": [f"++{pair}" for pair in pairs],
        "args_json": [json_text(nested)],
        "args_json_file": [json_file],
    }
