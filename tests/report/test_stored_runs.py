"""A sweep's storage and its folders agree, or what differs is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, Run
from results_on_disk import write_run
from tiny_sweep import FLAGS, grid, summaries, trials

from fundamentallm.report.read_runs import read_results
from fundamentallm.report.stored_runs import with_stored_runs
from fundamentallm.sweep.store.run_store import read_study
from fundamentallm.sweep.store.sweep_folder import SweepFolder

OLD = ROOT / "tests/fixtures/0.1"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A finished sweep of two runs, whose best is run-0001 or run-0002."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    return tmp_path / "tiny"


def scores(said: str) -> dict[str, float]:
    content = json.loads(said)
    key = next(name for name in content if name == "val_loss")
    return content[key]


def best_first(folder: Path) -> list[str]:
    losses = {name: each["best_val_loss"] for name, each in summaries(folder).items()}
    return sorted(losses, key=losses.__getitem__)


def test_a_finished_run_without_its_folder_is_repeated(run: Run, tiny: Path) -> None:
    before = {name: each["best_val_loss"] for name, each in summaries(tiny).items()}
    gone = best_first(tiny)[0]
    shutil.rmtree(tiny / gone)
    for command in ("explain", "report", "compare"):  # it counts until then, and that is said
        told = run(command, "tiny")
        assert f"the folders of finished runs are gone: {gone}" in told.stderr, command
    compared = scores(run("compare", "tiny", "--json").stdout)
    assert compared == pytest.approx(before, abs=1e-6)
    done = run("agent", "tiny", "--data", "cats.txt")
    assert done.returncode == 0, done.stderr
    assert f"{gone} is gone; it is run again" in done.stdout
    assert "of 2 finished" in done.stdout
    after = {name: each["best_val_loss"] for name, each in summaries(tiny).items()}
    assert after == pytest.approx(before, rel=0.02)  # another version trained it
    assert len(trials(tiny)) == 3
    again = run("agent", "tiny", "--data", "cats.txt")
    assert "is gone" not in again.stdout
    assert len(trials(tiny)) == 3
    assert "gone" not in run("explain", "tiny").stderr


def test_train_refuses_a_run_of_a_sweep(run: Run, tiny: Path, tmp_path: Path) -> None:
    files = sorted(path for path in tiny.rglob("*") if path.is_file())
    before = [path.read_bytes() for path in files]
    words = ("train", "--resume", "--max-steps=300", "--no-wandb")
    for output in ("tiny/run-0001", "tiny/another", tiny / "run-0002"):
        done = run(*words, f"--output-dir={output}")
        assert done.returncode == 2
        assert (
            "this folder is inside the sweep tiny, and only the sweep writes there; " in done.stderr
        )
        assert "fundamentallm refine tiny" in done.stderr
    assert [path.read_bytes() for path in files] == before
    assert not (tiny / "another").exists()
    # A file that happens to be called sweep.yaml is no sweep.
    (tmp_path / "sweep.yaml").write_text(grid())
    done = run("train", "cats.txt", *FLAGS, "--max-steps=2", "--no-wandb", "--output-dir=out")
    assert done.returncode == 0, done.stderr


def test_the_stored_result_counts_where_a_folder_was_changed(run: Run, tiny: Path) -> None:
    """By an earlier version, which let `train` do it, or by hand."""
    first, second = best_first(tiny)
    rows = (tiny / second / "metrics.jsonl").read_text().splitlines()
    better = json.dumps({**json.loads(rows[-1]), "step": 300, "val_loss": 0.5})
    (tiny / second / "metrics.jsonl").write_text("\n".join([*rows, better]) + "\n")
    write_run(tiny / "of-mine", {"learning_rate": 0.5, "seed": 9}, [0.1])
    told = run("explain", "tiny")
    assert f"changed after the sweep finished them: {second}" in told.stderr
    assert "left out as not of this sweep: of-mine" in told.stderr
    folder = SweepFolder(tiny)
    definition, runs = read_study(folder.url, "tiny")
    results = with_stored_runs(read_results([tiny]), folder, definition.space, runs)
    assert [each.name for each in results.ranked] == [first, second]
    on = run("agent", "tiny", "--data", "cats.txt")
    assert f"run {int(first[-4:])} of 2 finished" in on.stdout


def test_other_metrics_of_a_lost_run_are_unknown(tiny: Path) -> None:
    folder = SweepFolder(tiny)
    definition, runs = read_study(folder.url, "tiny")
    shutil.rmtree(tiny / "run-0001")
    read = read_results([tiny], "train_loss")
    results = with_stored_runs(read, folder, definition.space, runs)
    assert {each.name: each.score is None for each in results.runs} == {
        "run-0001": True,
        "run-0002": False,
    }


def test_only_looking_at_a_sweep_writes_nothing(run: Run, tiny: Path) -> None:
    before = {path: path.read_bytes() for path in tiny.rglob("*") if path.is_file()}
    for command in ("explain", "next", "compare"):
        run(command, "tiny")
    assert {path: path.read_bytes() for path in tiny.rglob("*") if path.is_file()} == before
