"""Names and contents of untrusted files cannot control the terminal through messages."""

from __future__ import annotations

import ast
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, Run
from tiny_sweep import FLAGS, grid

from fundamentallm.cli.messages import warn
from fundamentallm.training.checkpoint import Checkpoint
from fundamentallm.warning_lines import on_stderr, print_warnings

TITLE = "\x1b]0;owned\x07\x1b[2J\u202e"
CLI = ROOT / "fundamentallm/cli"


def test_one_function_prints() -> None:
    """The exceptions print only samples, sweep files and our own headings."""
    others = {"messages.py": 2, "claims.py": 1}
    for path in CLI.rglob("*.py"):
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("click.echo", "click.secho")
        ]
        assert len(calls) == others.get(path.name, 0), path.name


def test_library_code_warns_by_logging() -> None:
    """Writes remain where a process ends at once, and where we speak as Python would."""
    others = {
        "api/sweeps.py": 1,
        "sweep/engine/function_trial.py": 1,
        "sweep/engine/trial_main.py": 1,
        "sweep/program/warm.py": 2,
        "sweep/engine/trial_pipe.py": 1,
        "warning_lines.py": 1,
    }
    for path in (ROOT / "fundamentallm").rglob("*.py"):
        if CLI in path.parents:
            continue
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("print", "sys.stderr.write", "sys.stdout.write")
        ]
        name = path.relative_to(ROOT / "fundamentallm").as_posix()
        assert len(calls) == others.get(name, 0), name


def test_a_warning_of_library_code_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("fundamentallm"), "handlers", [])
    for show in (warn, on_stderr):
        print_warnings(show)
        logging.getLogger("fundamentallm.training.train_step").warning("named %s", f"{TITLE}\nx")
    output = capsys.readouterr().err
    assert output.splitlines() == [output.splitlines()[0]] * 2
    assert output.startswith("warning: named ")
    assert not set("\x1b\x07\u202e") & set(output)


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
    (tmp_path / "folder/summary.json").write_text('{"status": "done"}')
    done = run(*words)
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert "\N{REPLACEMENT CHARACTER}" in output or "owned" not in output
    assert not set("\x1b\x07\u202e") & set(output)


def test_no_escape_when_an_untrusted_run_is_resumed(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    flags = ("--no-wandb", "--resume", "--output-dir")
    output = run("train", text_file, *tiny_flags, *flags, TITLE).stderr  # no such run yet
    assert "--resume: no run in \N{REPLACEMENT CHARACTER}" in output
    out = tmp_path / TITLE
    last = out / "last.pt"
    checkpoint = Checkpoint.load(last)
    replace(checkpoint, data={"name": TITLE, "sha256": "0" * 64}).save(last)
    resumed = run("train", text_file, *flags, TITLE)
    assert resumed.returncode == 2
    assert "the run was trained on \N{REPLACEMENT CHARACTER}" in resumed.stderr
    last.write_bytes(b"")
    cut = run("train", text_file, *flags, TITLE)
    assert "not a whole fundamentallm checkpoint" in cut.stderr
    (out / "config.yaml").write_text('"\\x1b]0;owned\\x07": 1\n')
    unknown = run("train", text_file, *flags, TITLE)
    assert unknown.returncode == 2
    for each in (output, resumed.stderr, cut.stderr, unknown.stderr):
        assert not set("\x1b\x07\u202e") & set(each)


def test_no_escape_in_the_reason_of_a_failed_run(run: Run, text_file: Path, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=1, seeds=1))
    folder = f"sweep {TITLE}"
    flags = ("--workers=1", "--", *FLAGS)
    created = run("sweep", "t.yaml", text_file, f"--output-dir={folder}", "--count=0", *flags)
    assert created.returncode == 0, created.stderr
    (tmp_path / folder / "run-0001").mkdir()
    (tmp_path / folder / "run-0001/best.pt").write_text("of somebody else")
    done = run("agent", folder, "--workers=1")
    assert done.returncode == 1
    failed = next(line for line in done.stderr.splitlines() if line.startswith("run 1 failed: "))
    assert "sweep \N{REPLACEMENT CHARACTER}]0;owned" in failed
    assert "best.pt: not written by a run" in failed
    output = created.stdout + created.stderr + done.stdout + done.stderr
    assert not set("\x1b\x07\u202e") & set(output)
