"""Python script of a foreign program: its place in the command, and the modules it imports."""

from __future__ import annotations

import ast
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from fundamentallm.errors import FundamentallmError
from fundamentallm.sweep.file.sweep_file import SweepFile, is_macro
from fundamentallm.sweep.program.command import command_words, fixed_macros
from fundamentallm.sweep.program.environment import process_environment

PRELOAD = "FUNDAMENTALLM_PRELOAD"
"""Variable of the fork server with the absolute path of the script."""
UNBUFFERED = "-u"
"""The only flag of Python that changes nothing: our runs have PYTHONUNBUFFERED."""
INSTALLED = {"site-packages", "dist-packages"}
"""Names of the folders that hold installed packages."""
FIRST_USE = {
    "torch": ("torch._dynamo",),
    "wandb": ("wandb.sdk.launch.inputs.internal", "yaml"),
}
"""Modules that a library imports when it is first used: by an optimizer, and by `wandb.init`."""


class NotWarmError(FundamentallmError):
    """A command does not allow a warm start."""


@dataclass(frozen=True)
class PythonScript:
    """Script that a command gives Python."""

    index: int
    """Index of its word in the words that start a run."""
    path: str
    """Absolute path."""


def python_script(sweep: SweepFile) -> PythonScript:
    """Return the script that a sweep's runs start in the current folder.

    Raises:
        NotWarmError: They start something else, or another Python.
    """
    macros = fixed_macros(sweep)
    words = [
        each
        for word in command_words(sweep)
        for each in (macros.get(word[2:-1], (word,)) if is_macro(word) else (word,))
    ]
    return _python_script(words)


def _python_script(words: Sequence[str]) -> PythonScript:
    if sys.platform != "linux":
        raise NotWarmError("it needs Linux")
    rest = iter(enumerate(words))
    index, word = next(rest, (0, ""))
    if os.path.basename(word) == "env":
        index, word = next(rest, (0, ""))
    if not os.path.basename(word).startswith("python"):
        raise NotWarmError(f"the command starts {word or 'nothing'} and not a Python script")
    if not _runs_us(word):
        raise NotWarmError(f"{word} is not the Python that runs fundamentallm, {sys.executable}")
    index, script = next(rest, (0, ""))
    if script == UNBUFFERED:
        index, script = next(rest, (0, ""))
    if script.startswith("-") or not os.path.isfile(script):
        raise NotWarmError(f"the command gives Python no script but {script or 'nothing'}")
    return PythonScript(index, os.path.abspath(script))


def _runs_us(word: str) -> bool:
    """Return whether a word starts the same Python with the same packages as this one."""
    found = shutil.which(word)
    if found is None or not os.path.samefile(found, sys.executable):
        return False
    return os.path.samefile(os.path.dirname(found), os.path.dirname(sys.executable))


def preload_environment(
    script: PythonScript, wandb: Mapping[str, str], threads: int
) -> dict[str, str]:
    """Return the variables for the fork server of a script's runs: all that the runs share."""
    return {**wandb, **process_environment(threads), PRELOAD: script.path}


@dataclass(frozen=True)
class Import:
    """Import statement: a module, and names taken from it, which may be modules too."""

    module: str
    names: tuple[str, ...] = ()

    def run(self) -> None:
        """Import the module, and the modules among the names."""
        __import__(self.module, fromlist=self.names)


def installed_imports(script: str) -> list[Import]:
    """Return the imports of installed packages at the top of a script and of its own modules.

    The program's own modules are parsed and not imported, since they may change between runs.
    """
    folder = os.path.dirname(os.path.realpath(script))
    found: dict[Import, None] = {}
    files = [Path(script)]
    for file in files:  # it grows
        for each in _imports(file):
            own = [path for path in _own_files(each, folder) if path not in files]
            files += own
            top = each.module.partition(".")[0]
            if not is_own(top, folder) and _is_installed(top):
                found[each] = None
                found.update(dict.fromkeys(map(Import, FIRST_USE.get(top, ()))))
    return list(found)


def _imports(file: Path) -> Iterator[Import]:
    """Yield the imports that a file runs when it is started or imported."""
    try:
        todo: list[ast.AST] = [ast.parse(file.read_bytes())]
    except (OSError, ValueError, SyntaxError, RecursionError):
        return
    while todo:
        node = todo.pop(0)
        if isinstance(node, ast.Import):
            yield from (Import(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield Import(node.module, tuple(alias.name for alias in node.names))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.expr):
            todo += ast.iter_child_nodes(node)


def _own_files(each: Import, folder: str) -> Iterator[Path]:
    path = Path(folder, *each.module.split("."))
    for module in (path, *(path / name for name in each.names)):
        for file in (module.with_suffix(".py"), module / "__init__.py"):
            if file.is_file():
                yield file


def is_own(top: str, folder: str) -> bool:
    """Return whether a package or module lies in a script's folder, where Python looks first.

    A folder without Python files of its own, such as `wandb` with logs, is none.
    """
    spec = PathFinder.find_spec(top, [folder])
    return spec is not None and spec.origin is not None


def _is_installed(top: str) -> bool:
    """Return whether a package or module is an installed one, and not one under development."""
    try:
        spec = PathFinder.find_spec(top)
    except (ImportError, ValueError):
        return False
    return bool(spec and spec.origin and INSTALLED & set(Path(spec.origin).parts))
