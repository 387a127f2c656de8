"""Location of a foreign program: the file that its command starts, and the executable."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from fundamentallm.sweep.file.diagnostics import Key
from fundamentallm.sweep.file.sweep_file import SweepFile, is_macro
from fundamentallm.sweep.program.command import command_words, displayed, fixed_macros

SCRIPTS = (".py", ".sh")
LAUNCHERS = {
    "accelerate.commands.launch", "cProfile", "coverage", "debugpy", "pdb",
    "torch.distributed.launch", "torch.distributed.run",
}  # fmt: skip
"""Modules that start another program, named later in the command."""
MODULE_FLAGS = ("-m", "--module")


@dataclass(frozen=True)
class Program:
    """Script or module that a command starts."""

    index: int
    """Index of its word in the command."""
    key: Key
    """Key in the sweep file."""
    name: str
    shown: str
    """Name for display, without the value of an environment variable."""
    is_module: bool

    @property
    def file(self) -> Path | None:
        """Return its file in the current folder, where W&B's agent looks; None if not there."""
        path = Path(self.name)
        if self.is_module:
            module = Path(*self.name.split("."))
            path = module.with_suffix(".py") if not module.is_dir() else module / "__main__.py"
        return path if self.name and path.is_file() else None


def programs(sweep: SweepFile) -> list[Program]:
    """Return the scripts and modules that the command starts: wrappers, then the program itself.

    The program is `${program}`, or else the first script or module. Empty if the command is an
    executable alone, whose arguments may be anything.
    """
    found: list[Program] = []
    words = command_words(sweep)
    for index, word in enumerate(words):
        is_module = index > 0 and words[index - 1] in MODULE_FLAGS and word not in LAUNCHERS
        is_code = index > 0 and words[index - 1] == "-c"
        is_script = word.endswith(SCRIPTS) and not (word.startswith("-") or is_code)
        if word == "${program}":
            name = sweep.program
            return [*found, Program(index, ("program",), name, name, is_module)]
        if is_module or is_script:
            shown = displayed(sweep, index, word)
            found.append(Program(index, ("command", index), word, shown, is_module))
    return found[:1]


def why_not_started(sweep: SweepFile) -> tuple[Key, str] | None:
    """Return why the command's first program cannot start in the current folder, and its key.

    None if it can, or if only starting it would tell.
    """
    index, word = executable(sweep)
    key = ("command", index) if sweep.command else ("program",)
    if not word:
        return None
    if shutil.which(word):
        return None
    hint, name = "give the path of a program, or install it", displayed(sweep, index, word)
    if " " in word:
        hint = "it is one word; give each word of the command an entry of its own"
    elif os.path.isfile(word):
        if os.sep not in word:
            return key, f"{name} is not on your PATH; write ./{name}, or put a program before it"
        return key, f"{name} is not executable; run chmod +x {name}, or put a program before it"
    elif word == "python":
        hint = 'activate an environment, or give command: [python3, "${program}", "${args}"]'
    where = "does not exist" if os.sep in word else "is not on your PATH"
    return key, f"{name} {where}; {hint}"


def executable(sweep: SweepFile) -> tuple[int, str]:
    """Return index and text of the word that the system looks up first; "" if unknown."""
    macros = fixed_macros(sweep)
    words = [
        (index, each)
        for index, word in enumerate(command_words(sweep))
        for each in (macros.get(word[2:-1], ()) if is_macro(word) else (word,))
    ]
    if not words or Path(words[0][1]).name != "env":
        return words[0] if words else (0, "")
    rest = iter(words[1:])
    for index, word in rest:
        if word in ("-u", "--unset", "-C", "--chdir"):
            next(rest, None)
        elif word.startswith(("-S", "--split-string", "PATH=")):
            break
        elif not (word.startswith("-") or re.match(r"\w+=", word)):
            return index, word
    return 0, ""
