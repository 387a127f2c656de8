"""`sweep --seeds` with real runs: seeds, stops and kills, and one best in every view."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import pytest
from conftest import Run
from tiny_sweep import FLAGS, kill, processes, start, summaries, trials, wait_for

from fundamentallm import load_sweep
from fundamentallm.sweep.search.base import PastRun
from fundamentallm.sweep.search.choose import choose_search
from fundamentallm.sweep.search.racing import configurations_of, contenders
from fundamentallm.sweep.search.seeds import SeededSpace
from fundamentallm.sweep.store.records import best_so_far, past_runs
from fundamentallm.sweep.store.run_store import read_study

pytestmark = pytest.mark.slow
SWEEP = """\
program: train.py
name: tiny
method: grid
metric: {name: val_loss, goal: minimize}
parameters:
  learning_rate: {values: [0.0001, 0.004, 0.005, 0.006]}
  max_steps: {value: 40}
  eval_every: {value: 10}
"""
PROGRAM = """\
import json, sys
given = dict(word.lstrip("-").split("=") for word in sys.argv[1:])
rate, seed = float(given["rate"]), int(given["seed"])
print(json.dumps({"loss": rate + (seed * 7 % 5) / 100}))
"""
FOREIGN = """\
program: mine.py
name: mine
method: grid
metric: {name: loss, goal: minimize}
parameters:
  rate: {values: [1.0, 1.01, 2.0]}
  seed: {value: 2}
"""


def repeats(folder: Path) -> dict[float, list[int]]:
    """Seeds by learning rate."""
    found: dict[float, list[int]] = {}
    for trial in trials(folder):
        if trial.state.name == "COMPLETE":
            values = trial.user_attrs["values"]
            found.setdefault(values["learning_rate"], []).append(values["seed"])
    return found


def test_one_best_in_every_view(tmp_path: Path, text_file: Path, run: Run) -> None:
    file, folder = tmp_path / "tiny.yaml", tmp_path / "runs/tiny"
    file.write_text(SWEEP)
    command = ("sweep", file, text_file, "--seeds", 3, "--workers", 1)
    done = run(*command, "--", *FLAGS)
    assert done.returncode == 0, done.stderr
    assert "at most 12 runs, up to 3 seeds a configuration" in done.stdout
    seeds = repeats(folder)
    assert sorted(seeds) == [0.0001, 0.004, 0.005, 0.006]  # every point
    assert seeds[0.0001] == [0]  # clearly worse
    results = load_sweep(folder)
    assert results.best is not None
    best_rate = results.best.config["learning_rate"]
    assert seeds[best_rate] == [0, 1, 2]
    scores = [row["best_val_loss"] for row in summaries(folder).values()]
    scores_of_best = [
        scores[trial.user_attrs["run"]]
        for trial in trials(folder)
        if trial.user_attrs["values"]["learning_rate"] == best_rate
    ]
    mean = statistics.fmean(scores_of_best)
    assert f"best val_loss {mean:.4f}: mean of runs " in done.stdout
    assert results.best.score == min(scores_of_best)
    explained = run("explain", folder).stdout.replace("\n ", "")
    assert f"best val_loss: {mean:.4f} (mean of 3 seeds: learning_rate" in " ".join(
        explained.split()
    )
    assert f"best val_loss {mean:.4f}" in repr(results)
    definition, runs = read_study(f"sqlite:///{folder}/study.db", "tiny")
    found = best_so_far(runs, definition.space)
    assert found is not None
    assert found.score == pytest.approx(mean)
    assert folder / f"run-{found.runs[0].number + 1:04}" == results.best.folder
    # what the stored runs lead to is what the sweep did
    assert isinstance(definition.space, SeededSpace)
    search, all_runs = (
        choose_search(definition.space, seed=0).search,
        past_runs(runs, definition.sweep.ranks_by),
    )
    for k, each in enumerate(all_runs):
        assert search.suggest(k, all_runs[:k]) == each.values
    assert search.suggest(len(all_runs), all_runs) is None
    assert run(*command, "--", *FLAGS).returncode == 0  # nothing is left
    assert repeats(folder) == seeds
    refused = run("sweep", file, text_file, "--seeds", 2, "--workers", 1, "--", *FLAGS)
    assert refused.returncode == 2
    assert "seeds was 3 and is 2" in refused.stderr


def test_another_program_gets_the_seeds(tmp_path: Path, run: Run) -> None:
    (tmp_path / "mine.py").write_text(PROGRAM)
    (tmp_path / "mine.yaml").write_text(FOREIGN)
    dry = run("sweep", "mine.yaml", "--seeds", 3, "--dry-run")
    assert re.findall(r"--seed=(\d)", dry.stdout) == ["2", "2", "2"]
    done = run("sweep", "mine.yaml", "--seeds", 3, "--workers", 2)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/mine"
    values = [trial.user_attrs["values"] for trial in trials(folder)]
    assert {each["rate"]: 0 for each in values}.keys() == {1.0, 1.01, 2.0}
    known = configurations_of([PastRun(each, 1.0) for each in values], "seed")
    assert len(contenders(known)[0].runs) == 3
    assert [len(each.runs) for each in known][2] == 1
    assert "mean of 3 seeds: rate 1" in " ".join(run("explain", folder).stdout.split())
    (tmp_path / "none.yaml").write_text(FOREIGN.replace("  seed: {value: 2}\n", ""))
    refused = run("sweep", "none.yaml", "--seeds", 3)
    assert refused.returncode == 2
    assert "add one, as seed: {value: 0}" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_two_workers_and_kills(tmp_path: Path, text_file: Path) -> None:
    file, folder = tmp_path / "tiny.yaml", tmp_path / "runs/tiny"
    file.write_text(SWEEP.replace("max_steps: {value: 40}", "max_steps: {value: 300}"))
    command = ("sweep", file, text_file, "--seeds", 3, "--workers", 2, "--", *FLAGS)
    for ended in (2, 5):  # in the first part, and in the race
        process = start(tmp_path, *command)
        wait_for(lambda ended=ended: len(summaries_done(folder)) >= ended)
        kill(process.pid)
        process.wait()
        wait_for(lambda: not processes(str(folder / "run-")))
    process = start(tmp_path, *command)
    shown = process.communicate(timeout=300)[0]
    assert process.returncode == 0, shown
    seeds = repeats(folder)
    assert sorted(seeds) == [0.0001, 0.004, 0.005, 0.006]
    for own in seeds.values():
        assert sorted(own) == list(range(len(own)))  # none twice
    complete = [trial for trial in trials(folder) if trial.state.name == "COMPLETE"]
    assert sorted(trial.user_attrs["run"] for trial in complete) == list(range(len(complete)))
    definition, runs = read_study(f"sqlite:///{folder}/study.db", "tiny")
    found = best_so_far(runs, definition.space)
    assert found is not None
    assert len(found.runs) == 3


def summaries_done(folder: Path) -> list[str]:
    """Names of the runs that are done."""
    return [name for name, each in summaries(folder).items() if each.get("status") == "done"]
