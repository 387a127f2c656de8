"""Promise 12: runs and sweeps of every released version can be read and resumed.

`tests/fixtures/VERSION` holds a run and a sweep of that version; it never changes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, Run

from fundamentallm.training.checkpoint import Checkpoint

VERSIONS = sorted(path.parent.name for path in (ROOT / "tests/fixtures").glob("*/run"))


@pytest.fixture(params=VERSIONS)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Copy of the run and sweep of a version."""
    shutil.copytree(ROOT / "tests/fixtures" / request.param, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_run_is_read_and_resumed(old: Path, run: Run) -> None:
    assert run("generate", "run", "--max-tokens=5").returncode == 0
    scored = run("evaluate", "run", "cats.txt", "--json")
    assert scored.returncode == 0, scored.stderr
    assert 1 < json.loads(scored.stdout)["loss"] < 4
    before = (old / "run/metrics.jsonl").read_text()
    resumed = run(
        "train", "cats.txt", "--output-dir=run", "--resume", "--max-steps=24", "--no-wandb"
    )
    assert resumed.returncode == 0, resumed.stderr
    after = (old / "run/metrics.jsonl").read_text()
    assert after.startswith(before)
    assert json.loads(after.splitlines()[-1])["step"] == 24
    assert Checkpoint.load(old / "run/last.pt").progress["step"] == 24


def test_a_sweep_is_read_and_resumed(old: Path, run: Run) -> None:
    compared = run("compare", "tiny", "--json")
    assert compared.returncode == 0, compared.stderr
    assert len(json.loads(compared.stdout)["val_loss"]) == 2
    assert run("report", "tiny").returncode == 0
    resumed = run("agent", "tiny", "--data", "cats.txt")
    assert resumed.returncode == 0, resumed.stderr
    assert "of 2 finished" in resumed.stdout
