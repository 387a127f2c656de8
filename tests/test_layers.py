"""Modules import only from layers below, and the command line starts without torch."""

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
LAYERS = (  # bottom layer first: a package imports only from its own layer and earlier ones
    ("errors", "exit_codes", "metrics", "printable", "significance", "status", "warning_lines"),
    ("config", "machine", "scaling"),
    ("files",),
    ("data", "trackers"),
    ("model",),
    ("training",),
    ("sweep.file",),
    ("sweep.search",),
    ("sweep.store",),
    ("sweep.program",),
    ("sweep.engine",),
    ("sweep.check",),
    ("sweep",),
    ("report",),
    ("dashboard", "tune"),
    ("cli",),
    ("api", "hosted_search"),
)
ONLY_IN = {  # library: the only packages that import it
    "click": ("cli", "hosted_search"),
    "yaml": ("files.bounded_yaml", "files.run_folder", "sweep", "report", "cli"),
    "scipy": (
        "significance",
        "sweep.file.distributions",
        "sweep.search.acquisition",
        "sweep.search.gaussian_process",
        "report",
        "tune",
    ),
    "torch": ("data.dataset", "machine.device", "model", "training", "sweep.engine.trainer_trial"),
    "tqdm": ("trackers.console", "trackers.progress_bar"),
    "requests": ("trackers.wandb_api",),
    "wandb": ("trackers.wandb",),
    "wandb_workspaces": ("report.workspace", "report.wandb_panels"),
    "optuna": ("sweep.search.tpe_sampler", "sweep.store", "hosted_search"),
    "sqlalchemy": ("sweep.store",),
    "filelock": ("sweep.store", "files.run_folder"),
    "rich": ("cli",),
    "pyarrow": ("report.export",),
    "safetensors": ("training.safetensors",),
    "starlette": ("dashboard",),
    "uvicorn": ("dashboard.server",),
}


@cache
def modules() -> dict[str, set[str]]:
    """Return every module with its imports, including those inside functions."""
    imports_of: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        name = name_of(path)
        imported: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}: relative import"
                imported |= {f"{node.module}.{alias.name}" for alias in node.names}
        imports_of[name] = imported
    return imports_of


def name_of(path: Path) -> str:
    """Return the module name of a path, e.g. `sweep.engine`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def layer(name: str) -> int:
    """Return the layer of a module: that of its innermost package in LAYERS."""
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
            assert layer(inner) <= layer(name), f"{name} imports {inner}, which a higher layer"


def test_only_the_command_group_imports_commands() -> None:
    """Code that two commands share belongs outside `cli.commands`."""
    importers = {
        name
        for name, imported in modules().items()
        if any(target.startswith("fundamentallm.cli.commands") for target in imported)
    }
    assert importers == {"cli.main"}


def test_there_are_no_import_cycles() -> None:
    """Imports inside functions count; imports for the type checker do not."""
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
    assert list(TopologicalSorter(graph).static_order())  # CycleError names the modules


class WithoutTypeChecking(ast.NodeTransformer):
    """Removes the blocks that only a type checker reads."""

    def visit_If(self, node: ast.If) -> Any:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            return None
        return self.generic_visit(node)


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_are_imported_only_where_listed(library: str) -> None:
    importers = {
        name
        for name, imported in modules().items()
        if any(target.split(".")[0] == library for target in imported)
    }
    assert all(name.startswith(ONLY_IN[library]) for name in importers), importers


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["generate", "-h"], ["train", "--batch-size=x"]]
)
def test_help_and_errors_import_nothing_heavy(arguments: list[str]) -> None:
    heavy = ("torch", "wandb", "optuna", "numpy", "scipy")
    assert loaded_by(arguments, heavy) == []


def test_training_imports_neither_the_torch_compiler_nor_unused_libraries(
    text_file: Path, tiny_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing the compiler takes as long as importing torch."""
    monkeypatch.chdir(tmp_path)
    heavy = ("torch", "torch._dynamo", "wandb", "optuna", "scipy", "plotly", "sqlalchemy")
    assert loaded_by(["train", str(text_file), *tiny_flags], heavy) == ["torch"]
    assert (tmp_path / "runs/cats-1/best.pt").exists()
    assert loaded_by(["generate", "runs/cats-1", "--max-tokens=5"], heavy) == ["torch"]


@pytest.mark.parametrize(
    "command",
    [["check", "sweeps/bayes.yaml"], ["report"], ["explain"], ["predict", "--longer=2"], ["list"]],
)
def test_checks_and_reports_import_no_torch(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    if command[0] != "check":
        command = [*command, str(write_sweep(tmp_path, {0.001: [1.5, 1.6], 0.01: [1.7, 1.8]}))]
    assert loaded_by(command, ("torch", "wandb", "optuna")) == []


def test_a_check_of_another_program_imports_nothing_heavy(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "program: t.py\nmethod: bayes\nmetric: {name: a}\nparameters: {x: {min: 1, max: 2}}\n"
    )
    assert loaded_by(["check", str(file)], ("torch", "wandb", "optuna", "numpy")) == []


def loaded_by(arguments: list[str], modules: Sequence[str]) -> list[str]:
    """Return those of `modules` that a process imports to run `arguments`."""
    code = (
        "import sys, json, atexit\n"
        f"watched = {list(modules)!r}\n"
        "atexit.register(lambda: print(json.dumps([m for m in watched if m in sys.modules])))\n"
        f"from fundamentallm.cli.main import main\nmain({arguments!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1])
