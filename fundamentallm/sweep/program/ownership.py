"""Program of a sweep file: our trainer, or another program, which is never run as ours."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from fundamentallm.sweep.file.bundled import is_bundled
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.program.command import command_words
from fundamentallm.sweep.program.location import SCRIPTS

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
BUNDLED = {
    "d8e45a522f01759b",  # batch_size.yaml
    "0651d5c2abce9ed5",  # bayes.yaml
    "bf25479076940704",  # coarse.yaml
    "c7028745e3510156",  # dropout.yaml
    "31e296a6b49b9d67",  # fine.yaml
    "771496ab8c0c1e48",  # full.yaml
    "3831963a0586bebc",  # grid.yaml
    "4e251ad9b0017995",  # lr.yaml
    "deefab9b0817abae",  # model_size.yaml
    "2cf5bb9c419b33fa",  # quickstart.yaml
    "35acfbb4c49dd211",  # random.yaml
    "e7ff733632fa47fa",  # schedule.yaml before it had wsd
    "e46ca74414481d7f",  # seq_len.yaml
    "116cd3e818f67ec6",  # schedule.yaml
}
"""Digests of the sweep files in sweeps/, which may be copied without their train.py."""


def is_ours(sweep: SweepFile) -> bool:
    """Return whether the sweep runs `fundamentallm train` or our train.py, or is a bundled one.

    Every other program is foreign, even one that imports our package.
    """
    script = _script(sweep)
    if script is None:
        return True
    path = None if is_bundled(sweep.file) else find_script(script, sweep)
    return _is_our_script(path) if path is not None else digest(sweep) in BUNDLED


def digest(sweep: SweepFile) -> str:
    """Return the hash of a sweep file's content, which comments do not change."""
    content = json.dumps(sweep.content, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


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


def find_script(script: str, sweep: SweepFile) -> Path | None:
    """Find a script in the current folder, beside the sweep file or above.

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
