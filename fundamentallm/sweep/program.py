"""Which program a sweep file starts: our trainer, or a stranger's, which never becomes ours."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

from fundamentallm.sweep.file.sweep_file import ENVIRONMENT, SweepFile

DEFAULT = ("${env}", "${interpreter}", "${program}", "${args}")
"""The command where a file gives none, as W&B has it."""
SHOWN = {"${env}": "/usr/bin/env", "${interpreter}": "python"}
SCRIPTS = (".py", ".sh")
OUR_COMMAND = '["${env}", "${interpreter}", -m, fundamentallm, train, "${args}"]'
"""Starts our trainer wherever the package is installed, here and on W&B."""
OUR_SCRIPT = """
import sys
from fundamentallm.{module} import main
if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
"""
MODULES = ("__main__", "cli.main")
"""That train.py imported over time."""


def is_ours(sweep: SweepFile) -> bool:
    """Whether the sweep trains our model: it runs `fundamentallm train`, or our own train.py."""
    script = _script(sweep)
    if script is None:
        return True
    path = _find(script, sweep)
    return path is not None and _is_our_script(path)


def missing_program(sweep: SweepFile) -> str | None:
    """The script that the sweep would start, if it is not there."""
    script = _script(sweep)
    return script if script and _find(script, sweep) is None else None


def command_line(sweep: SweepFile) -> str:
    """What would be started, as a line to read."""
    shown = SHOWN | {"${program}": sweep.program}
    return " ".join(shown.get(word, word) for word in sweep.command or DEFAULT)


def words_of_every_run(sweep: SweepFile) -> list[str]:
    """What the file's `command` itself hands to every run: the words after what starts it."""
    words = _words(sweep)
    start = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    for i, word in enumerate(words):
        if Path(word).name in ("${program}", "train.py"):
            start = i + 1
        elif _is_our_command(words[i : i + 2]):
            start = i + 2
    kept: list[str] = []
    for word in words[start:]:
        if not word.startswith("${"):
            kept.append(word)
        elif kept[-1:] == ["--config"]:  # a file of the sweep's values, which a run has anyway
            kept.pop()
    return kept


def _words(sweep: SweepFile) -> list[str]:
    return [ENVIRONMENT.sub(_of_environment, word) for word in sweep.command]


def _of_environment(match: re.Match[str]) -> str:
    """As W&B's agent has it: a variable that is not set leaves its own name."""
    return os.environ.get(match[1], match[1])


def _is_our_command(words: list[str]) -> bool:
    return len(words) == 2 and Path(words[0]).name == "fundamentallm" and words[1] == "train"


def _script(sweep: SweepFile) -> str | None:
    """The script that is started, or its first word where none is; None for our command."""
    words = _words(sweep) or list(DEFAULT)
    for i, word in enumerate(words):
        if word == "${program}":
            return sweep.program
        if word.endswith(SCRIPTS):
            return word
        if _is_our_command(words[i : i + 2]):
            return None
    return ""


def _find(script: str, sweep: SweepFile) -> Path | None:
    """The script from here, as W&B's agent starts it; else beside the sweep file, or above it.

    Above it, because the bundled sweeps lie in a folder beside train.py.
    """
    file = Path(sweep.file).absolute()
    places = (Path(), file.parent, file.parent.parent)
    return next((path for place in places if (path := place / script).is_file()), None)


def _is_our_script(path: Path) -> bool:
    """Whether a file does what our train.py does, comments and docstring apart."""
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
