"""Public docstrings name errors and tensor shapes. Ruff checks that they exist.

Commands are exempt: their docstring is their help text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from conftest import ROOT

OPENINGS = {
    *("Whether", "What", "Of", "That", "As", "How", "Who", "Whom", "Where", "When", "Why", "Those"),
    *("To", "For", "From", "With", "If", "On", "At", "Because", "Is", "Its", "Nothing", "Nobody"),
}
SHAPE = r"\([\w.* +`\-]+,[^)]*\)|shape|one number"


def public_functions() -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """Yield the location of each function, its node, and its docstring with that of its class."""
    for path in sorted((ROOT / "fundamentallm").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name[0] != "_"]
        for scope in (tree, *classes):
            about = (ast.get_docstring(scope) or "") if isinstance(scope, ast.ClassDef) else ""
            for each in scope.body:
                if not isinstance(each, ast.FunctionDef):
                    continue
                if each.name[0] != "_" or each.name in ("__init__", "__post_init__"):
                    where = f"{path.relative_to(ROOT)}:{each.lineno} {each.name}"
                    yield where, each, about + (ast.get_docstring(each) or "")


def is_command(function: ast.FunctionDef) -> bool:
    return any("command" in ast.unparse(each) for each in function.decorator_list)


def raised(function: ast.FunctionDef) -> set[str]:
    """Return the error classes that a function raises and does not catch."""
    raised: set[str] = set()
    caught: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            raised.add(ast.unparse(node.exc.func).rpartition(".")[2])
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            caught |= {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)}
    return raised - caught


def test_docstrings_open_with_a_verb_or_a_noun() -> None:
    """The first word says what comes, as in `Return ...` or `Learning rate at ...`."""
    odd = []
    for path in (*(ROOT / "fundamentallm").rglob("*.py"), *(ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                if text.partition(" ")[0] in OPENINGS:
                    odd.append(f"{path.relative_to(ROOT)}: {text.splitlines()[0]}")
    assert not odd


def test_docstrings_name_the_errors_raised() -> None:
    missing = {
        f"{where}: {name}"
        for where, function, text in public_functions()
        if not is_command(function)
        for name in raised(function)
        if name[0].isupper() and name not in text
    }
    assert not missing


def test_docstrings_give_tensor_shapes() -> None:
    missing: set[str] = set()
    for where, function, text in public_functions():
        arguments = (*function.args.args, *function.args.kwonlyargs)
        hints = [each.annotation for each in arguments] + [function.returns]
        tensors = any(hint and ast.unparse(hint) in ("Tensor", "torch.Tensor") for hint in hints)
        if tensors and not re.search(SHAPE, text):
            missing.add(where)
    assert not missing


def test_the_checks_find_a_missing_error_and_shape() -> None:
    function = ast.parse("def f(x: Tensor):\n    raise DataError('no')").body[0]
    assert isinstance(function, ast.FunctionDef)
    assert raised(function) == {"DataError"}
    assert not re.search(SHAPE, "A number (or none) of `x`.")
    assert re.search(SHAPE, "(B, T, C) to (B, T, C).")
