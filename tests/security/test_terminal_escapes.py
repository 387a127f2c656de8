"""What a file of others is called or holds cannot redraw a terminal through a message."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from conftest import ROOT, Run

TITLE = "\x1b]0;owned\x07\x1b[2J\u202e"
CLI = ROOT / "fundamentallm/cli"


def test_one_function_prints() -> None:
    """Samples, sweep files and headings of our own alone are printed by other means."""
    others = {"messages.py": 1, "next.py": 1, "explain.py": 1}
    for path in CLI.glob("*.py"):
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("click.echo", "click.secho")
        ]
        assert len(calls) == others.get(path.name, 0), path.name


@pytest.mark.parametrize(
    "words",
    [
        ["check", f"{TITLE}.yaml"],
        ["check", "bad.yaml"],
        ["sweep", "bad.yaml", "cats.txt"],
        ["train", "cats.txt", "--config", "bad.yaml"],
        ["explain", TITLE],
        ["explain", "folder", "--metric", TITLE],
        ["generate", TITLE],
        ["train", f"--{TITLE}=1"],
    ],
)
def test_no_escape_reaches_the_terminal(
    words: list[str], run: Run, text_file: Path, tmp_path: Path
) -> None:
    quoted = '"\\x1b]0;owned\\x07\\x1b[2J\\u202E"'
    (tmp_path / "bad.yaml").write_text(
        f"program: train.py\nmethod: {quoted}\nmetric: {{name: {quoted}}}\nparameters: "
        f"{{{quoted}: {{value: 1}}}}\n"
    )
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/config.yaml").write_text(f"{quoted}: 1\n")
    done = run(*words)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "\N{REPLACEMENT CHARACTER}" in said or "owned" not in said
    assert not set("\x1b\x07\u202e") & set(said)
