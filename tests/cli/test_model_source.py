"""Models that commands name: of a checkpoint, a run, or a sweep's best run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from conftest import Run
from results_on_disk import FOREIGN, write_foreign_run, write_sweep
from tiny_sweep import FLAGS, grid


def test_a_sweep_means_its_best_run(run: Run, tmp_path: Path, text_file: Path) -> None:
    (tmp_path / "s.yaml").write_text(grid(rates=2, seeds=1))
    run("sweep", "s.yaml", text_file, "--workers=1", "--", *FLAGS)
    found = json.loads(run("list", "runs/s", "--json").stdout)
    best = f"runs/s/{found['sweeps'][0]['best_run']}"
    words = ("--max-tokens=20", "--json")
    of_sweep, of_run = run("generate", "runs/s", *words), run("generate", best, *words)
    assert json.loads(of_sweep.stdout) == json.loads(of_run.stdout)
    assert of_sweep.stderr.startswith(f"{best}: best of 2 runs, val_loss ")
    assert of_run.stderr == ""
    scored = json.loads(run("evaluate", "runs/s", text_file, "--json").stdout)
    assert scored["checkpoint"] == f"{best}/best.pt"
    for folder in (tmp_path / "runs/s").glob("run-*"):
        shutil.rmtree(folder)
    gone = run("generate", "runs/s")
    assert gone.returncode == 2
    assert gone.stderr.count("\n") == 1


def test_a_sweep_without_a_model_says_why(run: Run, tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", {0.1: [3.0, 3.1]})
    for file in folder.glob("run-*/summary.json"):
        file.write_text(file.read_text().replace('"done"', '"diverged"'))
    done = run("generate", "s")
    assert done.returncode == 2
    assert "s: all 2 runs diverged; lower the learning rate for all of them" in done.stderr
    (tmp_path / "f").mkdir()
    (tmp_path / "f/sweep.yaml").write_text(FOREIGN)
    write_foreign_run(tmp_path / "f/run-0001", {}, [{"eval/acc": 0.5}])
    done = run("generate", "f")
    assert done.returncode == 2
    assert "its runs are of another program" in done.stderr
