"""Bundled sweeps by name: in an installed wheel, from any folder, and never over a local file."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, Run
from tiny_sweep import FLAGS

from fundamentallm.sweep.file.bundled import bundled_sweeps, find_sweep_file
from fundamentallm.sweep.file.sweep_file import examine_sweep
from fundamentallm.sweep.program.ownership import is_ours


def test_every_sweep_of_the_repository_has_a_name() -> None:
    assert {path.name for path in bundled_sweeps().values()} == {
        path.name for path in (ROOT / "sweeps").glob("*.yaml")
    }


def test_a_local_file_of_the_name_is_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_sweep_file("lr") == str(bundled_sweeps()["lr"])
    (tmp_path / "lr").mkdir()  # a folder is no sweep file
    assert find_sweep_file("lr") == str(bundled_sweeps()["lr"])
    (tmp_path / "lr.yaml").touch()
    assert find_sweep_file("lr") == "lr.yaml"
    (tmp_path / "lr").rmdir()
    (tmp_path / "lr").touch()
    assert find_sweep_file("lr") == "lr"
    assert find_sweep_file("mine.yaml") == "mine.yaml"


def test_a_train_py_in_the_current_folder_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.py").write_text("raise SystemExit('not ours')\n")
    monkeypatch.chdir(tmp_path)
    assert is_ours(examine_sweep(find_sweep_file("lr")))


def test_an_unknown_name_lists_the_bundled_ones(run: Run) -> None:
    for command in ("sweep", "check"):
        done = run(command, "nothing")
        assert done.returncode == 2
        assert f"a bundled sweep: {', '.join(bundled_sweeps())}\n" in done.stderr
    assert "or the bundled sweep model_size" in run("sweep", "sweeps/model_size.yaml").stderr


def test_a_wheel_has_the_sweeps(tmp_path: Path) -> None:
    build = f"from hatchling.build import build_wheel; print(build_wheel({str(tmp_path)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=ROOT, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(tmp_path / done.stdout.strip()) as wheel:
        wheel.extractall(tmp_path / "installed")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    installed = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}

    def fundamentallm(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fundamentallm", *words], cwd=folder, env=installed,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = fundamentallm("check", "quickstart")
    assert (done.returncode, str(tmp_path / "installed") in done.stdout) == (0, True), done.stderr
    done = fundamentallm("sweep", "lr", "--count=1", "--", *FLAGS, "--max-steps=2")
    assert done.returncode == 0, done.stderr
    assert (folder / "runs/lr/run-0001/best.pt").exists()
