"""`fundamentallm enqueue`, as people use it."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Run
from tiny_sweep import FLAGS, grid, trials


@pytest.fixture
def sweep(run: Run, tmp_path: Path, text_file: Path) -> str:
    """A grid of four runs of which none has started."""
    (tmp_path / "t.yaml").write_text(grid())
    done = run("sweep", "t.yaml", text_file.name, "--count", 0, "--", *FLAGS)
    assert done.returncode == 0, done.stderr
    return "runs/t"


def test_a_worker_takes_enqueued_configurations_first(run: Run, tmp_path: Path, sweep: str) -> None:
    done = run("enqueue", sweep, "--learning_rate=2e-3", "--seed", 1)
    assert done.stdout == "run-0001 is tried next: learning_rate 0.002, seed 1\n"
    assert "start one with: fundamentallm agent runs/t" in done.stderr
    (tmp_path / "points.yaml").write_text(
        "- {learning_rate: 0.002, seed: 1}\n- {learning-rate: 0.001, seed: 1}\n"
    )
    done = run("enqueue", sweep, "--file", "points.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "run-0001 is not new (waiting): learning_rate 0.002, seed 1",
        "run-0002 is tried next: learning_rate 0.001, seed 1",
    ]
    done = run("agent", sweep, "--workers", 1)
    assert done.returncode == 0, done.stderr
    found = [(t.params["learning_rate"], t.params["seed"]) for t in trials(tmp_path / sweep)]
    assert found == [(0.002, 1), (0.001, 1), (0.001, 0), (0.002, 0)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give the configuration by flags, or several by --file"),
        (["--seed"], "--seed: its value is missing"),
        (["seed", "1"], "got seed; give --PARAMETER VALUE"),
        (["--seed", "1", "--seed=0"], "--seed is given twice; keep one"),
        (["--file", "missing.yaml"], "missing.yaml: No such file or directory"),
        (["--file", "map.yaml"], "map.yaml: give a list of mappings"),
        (["--file", "points.yaml"], "points.yaml: configuration 2: seed: got 7; give 0 or 1"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_enqueued(
    run: Run, tmp_path: Path, sweep: str, words: list[str], message: str
) -> None:
    (tmp_path / "map.yaml").write_text("learning_rate: 0.001\n")
    (tmp_path / "points.yaml").write_text(
        "- {learning_rate: 0.001, seed: 1}\n- {learning_rate: 0.001, seed: 7}\n"
    )
    done = run("enqueue", sweep, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert trials(tmp_path / sweep) == []


def test_there_must_be_a_sweep(run: Run, tmp_path: Path) -> None:
    done = run("enqueue", "runs/none", "--seed", 1)
    assert done.returncode == 2
    assert "runs/none: no sweep found" in done.stderr
    assert not (tmp_path / "runs").exists()
