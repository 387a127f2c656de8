"""Promise 12: what every released version wrote can be read and gone on with.

`tests/fixtures/VERSION` holds a run and a sweep that this version wrote; it is never changed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, Run

from fundamentallm.training.checkpoint import Checkpoint

VERSIONS = sorted(path.name for path in (ROOT / "tests/fixtures").iterdir())


@pytest.fixture(params=VERSIONS)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What a version wrote, where it may be changed."""
    shutil.copytree(ROOT / "tests/fixtures" / request.param, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_run_is_used_and_goes_on(old: Path, run: Run) -> None:
    assert run("generate", "run", "--max-tokens=5").returncode == 0
    scored = run("evaluate", "run", "cats.txt", "--json")
    assert scored.returncode == 0, scored.stderr
    assert 1 < json.loads(scored.stdout)["loss"] < 4
    before = (old / "run/metrics.jsonl").read_text()
    on = run("train", "cats.txt", "--output-dir=run", "--resume", "--max-steps=24", "--no-wandb")
    assert on.returncode == 0, on.stderr
    after = (old / "run/metrics.jsonl").read_text()
    assert after.startswith(before)
    assert json.loads(after.splitlines()[-1])["step"] == 24
    assert Checkpoint.load(old / "run/last.pt").progress["step"] == 24


def test_a_sweep_is_told_of_and_goes_on(old: Path, run: Run) -> None:
    told = run("compare", "tiny", "--json")
    assert told.returncode == 0, told.stderr
    assert len(json.loads(told.stdout)["val_loss"]) == 2
    assert run("report", "tiny").returncode == 0
    on = run("agent", "tiny", "--data", "cats.txt")
    assert on.returncode == 0, on.stderr
    assert "of 2 finished" in on.stdout
