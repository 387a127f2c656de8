"""`fundamentallm sweep --from`: a sweep whose search learns from earlier ones."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Run
from results_on_disk import write_run
from tiny_sweep import FLAGS, summaries, trials

from fundamentallm.sweep.store.earlier import EarlierRuns
from fundamentallm.sweep.store.records import past_runs
from fundamentallm.sweep.store.run_store import read_study
from fundamentallm.sweep.store.sweep_folder import SweepFolder

OLD = """\
program: train.py
method: {method}
run_cap: {runs}
metric: {{name: val_loss}}
parameters:
  learning_rate: {{distribution: log_uniform_values, min: 0.0001, max: 0.01}}
  max_steps: {{value: 16}}
"""
LAYERS = "  num_layers: {values: [2, 1]}\n"
DROPOUT = "  dropout: {min: 0.0, max: 0.3}\n"


@pytest.mark.slow
def test_a_sweep_learns_from_one_that_is_deleted_later(
    run: Run, tmp_path: Path, text_file: Path
) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(OLD.format(method="random", runs=5) + LAYERS)
    new.write_text(OLD.format(method="bayes", runs=1) + DROPOUT)
    deeper = [flag for flag in FLAGS if "layers" not in flag]
    assert run("sweep", old, text_file, "--workers=1", "--", *deeper).returncode == 0
    layers = [trial.params["num_layers"] for trial in trials(tmp_path / "runs/old")]
    assert sorted(layers) == [1, 1, 1, 1, 2]
    command = ("sweep", new, text_file, "--workers=1")
    words = ("--", *FLAGS)
    done = run(*command, "--from", "runs/old/", *words)
    assert done.returncode == 0, done.stderr
    assert "runs/old: 4 of 5 runs used; 1 has num_layers 2, not 1 as here" in done.stdout
    assert "with 4 runs of earlier sweeps, on" in done.stdout
    assert len(summaries(tmp_path / "runs/new")) == 1  # the earlier runs are none of its own

    shutil.rmtree(tmp_path / "runs/old")
    new.write_text(OLD.format(method="bayes", runs=2) + DROPOUT)
    again = run(*command, "--from", "./runs/old", *words)
    assert again.returncode == 0, again.stderr
    folder = SweepFolder(tmp_path / "runs/new")
    definition, runs = read_study(folder.url, folder.name)
    known = past_runs(runs[:1], definition.sweep.ranks_by)
    cold = replace(definition, earlier=EarlierRuns())
    second = [each.search().search.suggest(1, known) for each in (definition, cold)]
    assert [runs[1].values == values for values in second] == [True, False]
    other = run(*command, "--from", "other", *words)
    assert other.returncode == 2
    assert "it started from runs/old, not other; use the same ones" in other.stderr
    joined = run("agent", "runs/new")
    assert joined.returncode == 0
    assert "runs of earlier sweeps" in joined.stdout


def old_sweep(folder: Path) -> Path:
    """Write a sweep whose runs trained on another text."""
    folder.mkdir()
    (folder / "sweep.yaml").write_text(OLD.format(method="random", runs=2))
    for number in (1, 2):
        settings = {"learning_rate": 0.001 * number, "data_sha256": "0"}
        write_run(folder / f"run-{number:04}", settings, [2.0, 1.5])
    return folder


@pytest.mark.parametrize(
    ("method", "flags", "error"),
    [
        ("bayes", (), "--from: no run has a score that this sweep can use: old: 0 of 2 runs used; "
         "2 were trained on another text"),
        ("bayes", ("--sampler=random",), "new.yaml has method random; use method bayes"),
        ("random", (), "new.yaml has method random; use method bayes, or leave --from out"),
        ("grid", (), "--from needs a search that learns from runs"),
        ("bayes", ("--from=none",), "none: no such folder"),
    ],
)  # fmt: skip
def test_what_is_refused(
    method: str, flags: tuple[str, ...], error: str, run: Run, tmp_path: Path, text_file: Path
) -> None:
    old_sweep(tmp_path / "old")
    text = OLD.format(method=method, runs=2)
    if method == "grid":
        text = text.replace(
            "{distribution: log_uniform_values, min: 0.0001, max: 0.01}", "{values: [1]}"
        )
    (tmp_path / "new.yaml").write_text(text)
    done = run("sweep", "new.yaml", text_file, "--from", "old", *flags, "--", *FLAGS)
    assert done.returncode == 2, done.stdout
    assert error in done.stderr.splitlines()[-1]
    assert not (tmp_path / "runs").exists()
