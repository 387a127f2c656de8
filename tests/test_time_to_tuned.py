"""benchmarks/time_to_tuned.py: its curves, choices and tables, and the end of a budget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import time_to_tuned as benchmark  # pyright: ignore[reportMissingImports] - in benchmarks
from time_to_tuned import Entry, Task, Watch  # pyright: ignore[reportMissingImports] - as above

FORKING = """
import subprocess, sys
words = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]
subprocess.Popen(words, start_new_session=True)
"""
"""A program whose child leaves its session and outlives it, as W&B's service does."""


def entry(contender: str, seed: int, curve: list[tuple[float, float]]) -> Entry:
    task = Task(contender, "a.txt", seed, 1.0, 2)
    shape = {"num_layers": 2, "model_dim": 64, "max_seq_len": 128, "batch_size": 8}
    model = {**shape, "dropout": 0.0, "learning_rate": 1e-3, "mixed_precision": False}
    loss = curve[-1][1]
    return Entry(task, loss - 0.01, loss + 0.01, model, 3, 60.0, curve, "2026-11-30; a machine")


ENTRIES = [
    entry("optuna", 0, [(10.0, 3.0), (40.0, 2.0)]),
    entry("tune", 1, [(20.0, 2.5), (50.0, 1.5)]),
    entry("tune", 0, [(5.0, 2.4), (15.0, 1.9), (55.0, 1.6)]),
    entry("optuna", 1, [(10.0, 3.0), (40.0, 1.4)]),
]


def test_a_curve_follows_the_best_of_all_runs(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    rows = {"a": [4.0, 3.0], "deeper/b": [2.0, 5.0]}
    for name, losses in rows.items():
        (tmp_path / name).mkdir(parents=True)
        lines = [json.dumps({"step": k, "val_loss": loss}) + "\n" for k, loss in enumerate(losses)]
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 0}\n' + lines[0])
        watch.look(1.0 if name == "a" else 2.0)
        (tmp_path / name / "metrics.jsonl").write_text("".join(lines) + lines[0][:9])
        watch.look(1.5 if name == "a" else 2.5)
    assert watch.curve == [(1.0, 4.0), (1.5, 3.0), (2.0, 2.0)]
    assert len(watch.scored) == 2


def test_a_mean_of_curves_starts_when_all_have_a_loss() -> None:
    curves = [each.curve for each in ENTRIES if each.task.contender == "tune"]
    times, losses = zip(*benchmark.best_losses(curves), strict=True)
    assert times == (20.0, 50.0, 55.0)
    assert losses == pytest.approx((2.2, 1.7, 1.55))
    assert benchmark.best_losses([*curves, []]) == []


def test_a_model_is_chosen_on_the_first_half() -> None:
    assert benchmark.choose({"a": (1.5, 1.9), "b": (1.6, 1.1), "c": (1.7, 1.0)}) == "a"


def test_the_table_says_when_tune_is_as_good() -> None:
    (((text, minutes, cores), group),) = benchmark.comparisons(ENTRIES).items()
    assert (text, minutes, cores) == ("a.txt", 1.0, 2)
    assert list(group) == ["tune", "optuna"]
    assert benchmark.table(group)[2:] == [
        "| `fundamentallm tune` | 1.560 (1.510 to 1.610) | 1.540 | 3 |  |",
        "| Optuna's TPE and hyperband | 1.710 (1.410 to 2.010) | 1.690 | 3 | never |",
    ]
    first = {name: [each for each in of if not each.task.seed] for name, of in group.items()}
    assert benchmark.table(first)[-1].endswith("| 0.2 min |")


def test_results_are_read_back(tmp_path: Path) -> None:
    file = tmp_path / "new/results.json"
    assert benchmark.read_entries(file) == []
    benchmark.write_entries(file, ENTRIES)
    assert [each.task for each in benchmark.read_entries(file)] == [each.task for each in ENTRIES]


def test_the_docs_get_a_table_and_a_chart(tmp_path: Path) -> None:
    text = benchmark.section(ENTRIES)
    assert "a.txt, 1 minutes of 2 cores, 2 seeds" in text
    assert "2 layers, 64 wide, sequence 128, batch 8, dropout 0" in text
    chart = tmp_path / "charts" / benchmark.CHART.name
    benchmark.draw(ENTRIES, chart)
    drawn = chart.read_text()
    assert all(f">{name}<" in drawn for name in ("fundamentallm tune", "a.txt"))


def test_all_processes_of_a_contender_end_with_its_budget() -> None:
    mark = f"TIME_TO_TUNED=test-{os.getpid()}"
    words = [sys.executable, "-c", FORKING]
    environment = {**os.environ, **dict([mark.split("=")])}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()  # the child's
        process.wait()
        assert len(list(benchmark.marked(mark))) == 1
        benchmark.kill_marked(mark)
        assert list(benchmark.marked(mark)) == []
