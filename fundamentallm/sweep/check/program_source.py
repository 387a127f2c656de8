"""Checks of how another program reads its values, as far as its Python source proves it."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from fundamentallm.sweep.file.diagnostics import Diagnostics, Key
from fundamentallm.sweep.file.distributions import Categorical
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.program.command import FLAG_MACROS, VALUE_MACROS, command_words

LARGEST = 1_000_000
"""Largest file in bytes that is read."""
MOST_FILES = 200
"""Most files of a program that are read."""
SAYS_NOTHING = {
    "flax", "jax", "jaxlib", "keras", "lightgbm", "matplotlib", "numpy", "optax", "pandas", "scipy",
    "sklearn", "tensorflow", "torch", "torchaudio", "torchvision", "tqdm", "xgboost", "yaml",
}  # fmt: skip
"""Libraries that read neither arguments nor values of a sweep on their own."""
READS_NO_ARGUMENTS = {
    "accelerate", "datasets", "lightning", "pytorch_lightning", "timm", "torchmetrics",
    "transformers", "wandb",
}  # fmt: skip
"""Further libraries that read no arguments without a class whose name `ARGUMENTS` has."""
HIDDEN = r"subprocess|os\.system|os\.exec|runpy|importlib|__import__|sys\.path"
"""Ways to run code that the source does not show."""
VALUES = re.compile(rf"wandb|fundamentallm|{HIDDEN}", re.IGNORECASE)
"""Texts of a program that may get the values of a sweep other than by arguments."""
NAME = re.compile(r"[\w./-]+")
SPELLING = re.compile(r"[\W_]")
"""Characters in which two spellings of a metric's name may differ."""
ARGUMENTS = re.compile(
    rf"argv|argument_?parser|argparse|optparse|getopt|cli\b|{HIDDEN}", re.IGNORECASE
)
"""Texts of a program that may read arguments."""


def check_source(sweep: SweepFile, file: Path, diagnostics: Diagnostics) -> None:
    """Add warnings about a program that does not read its values, or names its metric otherwise.

    Args:
        sweep: Sweep of a foreign program.
        file: The program, a Python file.
        diagnostics: Receives the warnings.
    """
    tree, name = _parsed(file), file.name
    if tree is None:
        return
    _check_metric(sweep, file, diagnostics)
    words = command_words(sweep)
    key: Key = ("command",) if sweep.command else ("program",)
    macro = next((word for word in words if word in FLAG_MACROS), None)
    if not set(VALUE_MACROS) & set(words):
        if _is_without(VALUES, file, SAYS_NOTHING):
            diagnostics.warn(
                key,
                f"passes no values to {name}, which does not use wandb either, so all runs are "
                "the same; add ${args}",
            )
    elif macro is not None and _uses_hydra(tree):
        diagnostics.warn(
            key,
            f"{name} uses Hydra, which reads name=value; write ${{args_no_hyphens}} in place of "
            f"{macro}",
        )
    elif macro is not None:
        for option, problem in _boolean_options(tree, macro).items():
            for parameter in sweep.parameters:
                distribution = parameter.distribution
                values = distribution.values if isinstance(distribution, Categorical) else ()
                if parameter.path == (option,) and any(isinstance(each, bool) for each in values):
                    diagnostics.warn(parameter.key, f"{name} {problem}")


def _check_metric(sweep: SweepFile, file: Path, diagnostics: Diagnostics) -> None:
    """Warn if the program has the metric's name, but only in another spelling."""
    sources = _sources(file, SAYS_NOTHING | {"wandb"})
    if sweep.metric is None or sources is None:
        return
    name = sweep.metric.name
    trees = [_parsed(each) for each in sorted(sources)]
    nodes = [node for tree in trees if tree is not None for node in ast.walk(tree)]
    texts = [text for node in nodes if (text := _constant(node)) is not None]
    composed = (pattern for node in nodes for pattern in _composed(node))
    if name in texts or any(re.fullmatch(pattern, name) for pattern in composed):
        return
    for text in texts:
        if NAME.fullmatch(text.strip()) and _spelled_alike(text, name):
            diagnostics.warn(
                ("metric", "name"),
                f"{file.name} has the name {text!r}, but not {name!r}; write it alike",
            )
            return


def _constant(node: ast.AST) -> str | None:
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return node.value if is_text else None  # pyright: ignore


def _composed(node: ast.AST) -> Iterator[str]:
    """Yield patterns of the texts that an expression puts together."""
    if isinstance(node, ast.JoinedStr):
        parts = [_constant(part) for part in node.values]
        yield "".join(".*" if part is None else re.escape(part) for part in parts)
    elif isinstance(node, ast.BinOp):
        first, last = _constant(node.left), _constant(node.right)
        if isinstance(node.op, ast.Mod) and first is not None:
            yield re.sub("%[sd]", ".*", re.escape(first))
        elif isinstance(node.op, ast.Add) and (first or last):
            yield f"{re.escape(first or '')}.*{re.escape(last or '')}"


def _spelled_alike(first: str, second: str) -> bool:
    return SPELLING.sub("", first).lower() == SPELLING.sub("", second).lower()


def _boolean_options(tree: ast.Module, macro: str) -> Mapping[str, str]:
    """Return argparse's options that cannot read true and false from the macro, each with why."""
    found: dict[str, str] = {}
    passes_value = macro != "${args_no_boolean_flags}"
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or getattr(call.func, "attr", "") != "add_argument":
            continue
        given = {each.arg: ast.unparse(each.value).strip("'") for each in call.keywords}
        for option in call.args:
            name = str(option.value).removeprefix("--") if isinstance(option, ast.Constant) else ""
            if given.get("action") in ("store_true", "store_false") and passes_value:
                found[name] = (
                    f"reads --{name} without a value ({given['action']}), but {macro} passes one; "
                    "write ${args_no_boolean_flags} in its place"
                )
            elif given.get("type") == "bool" and passes_value:
                found[name] = (
                    f"reads --{name}=False as true (type=bool); give it action=store_true, and "
                    f"write ${{args_no_boolean_flags}} in place of {macro}"
                )
            elif given.get("type") == "bool":
                found[name] = (
                    f"reads --{name} only with a value (type=bool), but {macro} passes none; give "
                    "it action=store_true"
                )
    return found


def _uses_hydra(tree: ast.Module) -> bool:
    return any(
        ast.unparse(decorator).startswith("hydra.main(")
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for decorator in function.decorator_list
    )


def reads_no_arguments(file: Path) -> bool:
    """Return whether the source of a program proves that it reads no arguments."""
    return _is_without(ARGUMENTS, file, SAYS_NOTHING | READS_NO_ARGUMENTS)


def _is_without(texts: re.Pattern[str], file: Path, libraries: set[str]) -> bool:
    """Return whether `texts` occur nowhere in a program that needs only these libraries."""
    sources = _sources(file, libraries)
    return sources is not None and not any(texts.search(_text(each)) for each in sources)


def _sources(file: Path, libraries: set[str]) -> set[Path] | None:
    """Return the files of a program: its own and those that it imports from its folders.

    None if one cannot be read, or imports more than these, the standard library and `libraries`.
    """
    rest, seen = [file], {file}
    while rest:
        path = rest.pop()
        tree = _parsed(path)
        if tree is None or len(seen) > MOST_FILES:
            return None
        for folder, name in _imports(tree, path):
            top = name.partition(".")[0]
            modules = set(_modules(name, {folder, file.parent, Path()}))
            if not modules and top not in libraries | sys.stdlib_module_names:
                return None
            rest += modules - seen
            seen |= modules
    return seen


def _imports(tree: ast.Module, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield each imported name, with the folder that it is relative to."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((path.parent, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            folder = Path(os.path.normpath(path.parent.joinpath(*[".."] * (node.level - 1))))
            for alias in node.names:
                yield folder, ".".join(filter(None, (node.module, alias.name)))


def _modules(name: str, folders: set[Path]) -> Iterator[Path]:
    """Yield the files of a module and of the packages around it."""
    parts = name.split(".")
    for folder in folders:
        for end in range(1, len(parts) + 1):
            module = folder.joinpath(*parts[:end])
            for file in (module.with_suffix(".py"), module / "__init__.py"):
                if file.is_file():
                    yield file


def _parsed(file: Path) -> ast.Module | None:
    try:
        return ast.parse(_text(file))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(LARGEST).decode("utf-8", "replace")
    except OSError:
        return ""
