"""Check of the Python file from which `wandb sweep-scheduler` takes the functions of a search."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

from fundamentallm.sweep.file.diagnostics import Diagnostics
from fundamentallm.sweep.file.scheduler import KEY, hosted_method
from fundamentallm.sweep.file.sweep_file import SweepFile

LARGEST = 1_000_000
"""Largest file in bytes that is read."""


def check_search_source(sweep: SweepFile, diagnostics: Diagnostics) -> None:
    """Warn if the file is missing, or lacks a function that the sweep names."""
    scheduler = sweep.content.get("scheduler")
    if not isinstance(scheduler, Mapping) or not isinstance(scheduler.get("source"), str):
        return
    source: str = scheduler["source"]
    names = [str(scheduler[name]) for name in ("optimizer", "search_space") if name in scheduler]
    key = (*KEY, "source")
    if (ours := hosted_method(sweep.content)) is not None:
        line = f"from fundamentallm.hosted_search import {', '.join(sorted(names))}"
        hint = f"; for our {ours} search it needs one line: {line}"
    else:
        hint = ""
    if not Path(source).is_file():
        diagnostics.warn(
            key,
            f"{source} does not exist in the current folder, where wandb sweep-scheduler looks for "
            f"it{hint}",
        )
        return
    defined = _defined(Path(source))
    for name in names:
        if defined is not None and name not in defined:
            diagnostics.warn(key, f"{source} has no {name}{hint}")


def _defined(file: Path) -> set[str] | None:
    """Return the names that a module defines or imports; None if its source does not say."""
    try:
        if file.stat().st_size > LARGEST:
            return None
        tree = ast.parse(file.read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError):
        return None
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return None if "*" in found else found
