"""Text of a run, when its source is elsewhere or can be read only once."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Run, nightly
from tiny_sweep import grid

PROGRAM = f"{shlex.quote(sys.executable)} -m fundamentallm"


def bash(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = script.replace("fundamentallm ", f"{PROGRAM} ", 1)
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )


def test_from_another_folder_the_error_says_how_to_name_the_text(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    assert run("train", "cats.txt", *tiny_flags, "--output-dir=out").returncode == 0
    other = tmp_path / "other"
    other.mkdir()
    for flags in ("--config ../out/config.yaml", "--output-dir ../out --resume"):
        done = bash(f"fundamentallm train {flags} --max-steps 30", other)
        assert done.returncode == 2
        (error,) = done.stderr.splitlines()[-1:]
        assert f"cats.txt: the run's text is not at {other / 'cats.txt'}; give its path" in error
        command = error.rpartition("give its path: ")[2]
        assert command == f"fundamentallm train PATH/TO/cats.txt {flags}"
        done = bash(command.replace("PATH/TO", "..") + " --max-steps=30", other)
        assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/summary.json").read_text())["step"] == 30


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("cat cats.txt | fundamentallm train - FLAGS", "/dev/stdin"),
        nightly("fundamentallm train /dev/stdin FLAGS < cats.txt", "/dev/stdin"),
        ("fundamentallm train <(cat cats.txt) FLAGS", "/dev/fd/"),
        nightly("mkfifo p; cat cats.txt > p & fundamentallm train p FLAGS", "p"),
    ],
)
def test_a_text_that_is_read_once_can_be_resumed_from_a_file(
    script: str, name: str, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    flags = " ".join([*tiny_flags, "--output-dir out --no-wandb"])
    done = bash(script.replace("FLAGS", flags), tmp_path)
    assert done.returncode == 0, done.stderr
    found = re.search(rf"warning: {name}\S* can be read only once; .* use: (.*)\n", done.stderr)
    assert found is not None, done.stderr
    assert found[1] == "fundamentallm train TEXT.txt --output-dir out --resume --no-wandb"
    bare = bash("fundamentallm train --output-dir out --resume --max-steps 30", tmp_path)
    assert bare.returncode == 2
    assert "this pipe, which is gone; save the same text to a file and run: " in bare.stderr
    assert "fundamentallm train TEXT.txt" in bare.stderr
    again = bash(found[1].replace("TEXT.txt", "cats.txt") + " --max-steps=30", tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "out/summary.json").read_text())["step"] == 30


def test_of_a_file_nothing_is_said(run: Run, text_file: Path, tiny_flags: list[str]) -> None:
    assert "only once" not in run("train", text_file, *tiny_flags).stderr


def test_a_sweep_needs_a_text_that_every_run_can_read(text_file: Path, tmp_path: Path) -> None:
    shutil.copy2(ROOT / "train.py", tmp_path)
    (tmp_path / "s.yaml").write_text(grid())
    for command in ("sweep", "check"):
        done = bash(f"fundamentallm {command} s.yaml <(cat cats.txt)", tmp_path)
        assert done.returncode == 2
        assert "it can be read only once, and every run of a sweep reads the text" in done.stderr
    assert not (tmp_path / "runs").exists()
