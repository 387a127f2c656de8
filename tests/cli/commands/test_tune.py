"""`fundamentallm tune`, as people use it, with short phases."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import TEXT, Run
from tiny_sweep import summaries

from fundamentallm.cli.main import main
from fundamentallm.training.checkpoint import Checkpoint
from fundamentallm.tune import phases, plan

TINY = ["--max-parameters", "250000", "--workers", "1"]


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a text of 3,000 characters, and accept runs of a few steps."""
    (tmp_path / "cats.txt").write_text(TEXT[:3000], "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "LEAST_STEPS", 2)
    monkeypatch.setattr(phases, "SHORT_RUN_STEPS", 2)
    monkeypatch.setattr(phases, "CONFIGURATIONS", {4: 2})
    monkeypatch.setattr(phases, "SIZE_RATIO", 1.2)
    return tmp_path


def tune(*words: object) -> int:
    """Run `fundamentallm tune` in this process; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["tune", *map(str, words)])
    code = ended.value.code
    assert isinstance(code, int)
    return code


def test_every_phase_runs_and_a_larger_budget_continues(
    in_folder: Path, capfd: pytest.CaptureFixture[str], run: Run
) -> None:
    assert tune("cats.txt", "--runs", 0.08, *TINY) == 0
    said = capfd.readouterr()
    folder = in_folder / "runs/tune-cats"
    assert {"shapes", "search", "train"} <= {each.name for each in folder.iterdir()}
    shapes, search, train = (summaries(folder / name) for name in ("shapes", "search", "train"))
    assert len(shapes) >= 2
    assert len(search) == 5  # four short runs and the best of them again
    done = {**shapes, **search, **train}
    assert {each["status"] for each in done.values()} == {"done"}
    every = [each["best_val_loss"] for name in (shapes, search, train) for each in name.values()]
    assert Checkpoint.load(folder / "best.pt").progress["best_val_loss"] == min(every)
    assert f"{min(every):.4f}" in said.out
    assert "Twice the budget" in " ".join(said.out.split())
    assert "--max-parameters 250000 --workers 1" in said.out  # of the command that continues
    assert {"shapes.yaml", "train.yaml"} <= {each.name for each in folder.iterdir()}
    checked = run("check", folder / "search.yaml")
    assert checked.returncode == 0, checked.stdout
    assert "cats" in run("report", folder).stdout
    assert run("generate", folder, "--max-tokens", 5).returncode == 0

    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/run-*/summary.json")}
    assert tune("cats.txt", "--runs", 0.08, *TINY) == 0  # nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert " starts" not in capfd.readouterr().out

    assert tune("cats.txt", "--runs", 0.12, *TINY) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    again = summaries(folder / "train-2")
    assert {each["status"] for each in again.values()} == {"done"}
    assert again["run-0001"]["step"] > train["run-0001"]["step"]
    assert again["run-0001"]["reused_from"] == "train/run-0001"
    assert search["run-0005"]["reused_steps"] > 0
    assert tune("cats.txt", "--runs", 0.08, *TINY) == 2
    assert "a budget can only grow" in capfd.readouterr().err
