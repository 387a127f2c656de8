"""Program of a sweep file: our trainer, or another program, which is never run as ours."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.program.command import command_words

SCRIPTS = (".py", ".sh")
OUR_COMMAND = '["${env}", "${interpreter}", -m, fundamentallm, train, "${args}"]'
"""Command that starts our trainer from the installed package, here and on W&B."""
OUR_SCRIPT = """
import sys
from fundamentallm.{module} import main
if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
"""
MODULES = ("__main__", "cli.main")
"""Modules that versions of train.py import."""


def is_ours(sweep: SweepFile) -> bool:
    """Return whether the sweep runs `fundamentallm train` or our train.py."""
    script = _script(sweep)
    if script is None:
        return True
    path = _find(script, sweep)
    return path is not None and _is_our_script(path)


def missing_program(sweep: SweepFile) -> str | None:
    """Return the script that the sweep would start, if it is missing."""
    script = _script(sweep)
    return script if script and _find(script, sweep) is None else None


def words_of_every_run(sweep: SweepFile) -> list[str]:
    """Return the arguments that the file's `command` gives to every run."""
    words = command_words(sweep)
    start = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    for i, word in enumerate(words):
        if Path(word).name in ("${program}", "train.py"):
            start = i + 1
        elif _is_our_command(words[i : i + 2]):
            start = i + 2
    rest: list[str] = []
    for word in words[start:]:
        if not word.startswith("${"):
            rest.append(word)
        elif rest[-1:] == ["--config"]:  # a file of the sweep's values, which a run gets anyway
            rest.pop()
    return rest


def _is_our_command(words: list[str]) -> bool:
    return len(words) == 2 and Path(words[0]).name == "fundamentallm" and words[1] == "train"


def _script(sweep: SweepFile) -> str | None:
    """Return the script; "" if the command has none; None for our command."""
    words = command_words(sweep)
    for i, word in enumerate(words):
        if word == "${program}":
            return sweep.program
        if word.endswith(SCRIPTS):
            return word
        if _is_our_command(words[i : i + 2]):
            return None
    return ""


def _find(script: str, sweep: SweepFile) -> Path | None:
    """Find the script in the current folder, as W&B's agent does, beside the sweep file or above.

    Above it, because the bundled sweeps are in a folder beside train.py.
    """
    file = Path(sweep.file).absolute()
    folders = (Path(), file.parent, file.parent.parent)
    return next((path for folder in folders if (path := folder / script).is_file()), None)


def _is_our_script(path: Path) -> bool:
    """Return whether a file has the code of our train.py, apart from comments and docstring."""
    try:
        code = _code(path.read_text("utf-8"))
    except (OSError, ValueError, SyntaxError):
        return False
    return any(code == _code(OUR_SCRIPT.format(module=module)) for module in MODULES)


def _code(text: str) -> list[str]:
    def statements() -> Iterator[str]:
        for each in ast.parse(text).body:
            is_text = isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)
            if not is_text:
                yield ast.dump(each)

    return list(statements())
