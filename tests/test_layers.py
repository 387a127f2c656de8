"""Modules import only what lies below them, and the command line starts without torch."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from results_on_disk import write_sweep

PACKAGE = ROOT / "fundamentallm"
LAYERS = (  # from the bottom up: a package imports from those above its line, and from its own
    ("errors", "exit_codes", "metrics", "printable", "status", "warning_lines"),
    ("config", "machine"),
    ("files",),
    ("data", "trackers"),
    ("model",),
    ("training",),
    ("sweep.file",),
    ("sweep.search",),
    ("sweep.store",),
    ("sweep.engine",),
    ("sweep.check",),
    ("sweep",),
    ("report",),
    ("cli",),
)
ONLY_IN = {  # library: the only places that import it
    "click": ("cli",),
    "yaml": ("files.bounded_yaml", "files.run_folder", "sweep", "report", "cli"),
    "scipy": ("sweep.file.distributions", "report"),
    "torch": ("data.dataset", "machine.device", "model", "training", "sweep.engine.trial"),
    "tqdm": ("trackers.console",),
    "requests": ("report.read_wandb",),
    "wandb": ("trackers.wandb", "report.read_wandb"),
    "optuna": ("sweep.search.bayes", "sweep.store"),
    "sqlalchemy": ("sweep.store",),
    "filelock": ("sweep.store", "files.run_folder"),
    "rich": ("cli",),
}


@cache
def modules() -> dict[str, set[str]]:
    """Every module of the package, with all that it imports, also inside functions."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        name = name_of(path)
        imported: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}: relative import"
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
        found[name] = imported
    return found


def name_of(path: Path) -> str:
    """`sweep.engine`, of its path."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def layer(name: str) -> int:
    """The layer of a module: that of the innermost package that has one."""
    while name:
        for number, packages in enumerate(LAYERS):
            if name in packages:
                return number
        name = name.rpartition(".")[0]
    return len(LAYERS)  # the package itself, and __main__


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_down(name: str) -> None:
    known = modules()
    for target in modules()[name]:
        if not target.startswith("fundamentallm."):
            continue
        inner = target.removeprefix("fundamentallm.")
        while inner and inner not in known:
            inner = inner.rpartition(".")[0]
        if inner and inner != name:
            assert layer(inner) <= layer(name), f"{name} imports {inner}, which is above it"


def test_only_the_command_group_imports_commands() -> None:
    """What two commands share lies in a module beside `cli.commands`."""
    importers = {
        name
        for name, imported in modules().items()
        if any(target.startswith("fundamentallm.cli.commands") for target in imported)
    }
    assert importers == {"cli.main"}


def test_nothing_imports_itself_by_a_detour() -> None:
    """Also not inside a function; what is there for the type checker alone does not count."""
    known = {name: path for path, name in ((p, name_of(p)) for p in PACKAGE.rglob("*.py"))}
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        tree = WithoutTypeChecking().visit(ast.parse(path.read_text("utf-8")))
        graph[name] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    target = f"{node.module}.{alias.name}".removeprefix("fundamentallm.")
                    inner = next((t for t in (target, target.rpartition(".")[0]) if t in known), "")
                    graph[name] |= {inner} - {"", name}
    assert list(TopologicalSorter(graph).static_order())  # or CycleError, which names them


class WithoutTypeChecking(ast.NodeTransformer):
    """Takes out what only a type checker reads."""

    def visit_If(self, node: ast.If) -> Any:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            return None
        return self.generic_visit(node)


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_stay_in_their_place(library: str) -> None:
    places = {
        name
        for name, imported in modules().items()
        if any(target.split(".")[0] == library for target in imported)
    }
    assert all(place.startswith(ONLY_IN[library]) for place in places), places


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["generate", "-h"], ["train", "--batch-size=x"]]
)
def test_help_and_errors_import_nothing_heavy(arguments: list[str]) -> None:
    heavy = ("torch", "wandb", "optuna", "numpy", "scipy")
    assert loaded_by(arguments, heavy) == []


def test_training_imports_neither_torchs_compiler_nor_what_it_does_not_use(
    text_file: Path, tiny_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler alone takes as long to import as torch."""
    monkeypatch.chdir(tmp_path)
    heavy = ("torch", "torch._dynamo", "wandb", "optuna", "scipy", "plotly", "sqlalchemy")
    assert loaded_by(["train", str(text_file), *tiny_flags], heavy) == ["torch"]
    assert (tmp_path / "runs/cats-1/best.pt").exists()
    assert loaded_by(["generate", "runs/cats-1", "--max-tokens=5"], heavy) == ["torch"]


@pytest.mark.parametrize("command", [["check", "sweeps/bayes.yaml"], ["report"], ["explain"]])
def test_looking_at_sweeps_and_results_imports_no_torch(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    if len(command) == 1:
        command = [*command, str(write_sweep(tmp_path, {0.001: [1.5, 1.6], 0.01: [1.7, 1.8]}))]
    assert loaded_by(command, ("torch", "wandb", "optuna")) == []


def loaded_by(arguments: list[str], modules: Sequence[str]) -> list[str]:
    """Which of `modules` a process has imported once it has done `arguments`."""
    code = (
        "import sys, json, atexit\n"
        f"told = {list(modules)!r}\n"
        "atexit.register(lambda: print(json.dumps([m for m in told if m in sys.modules])))\n"
        f"from fundamentallm.cli.main import main\nmain({arguments!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1])
