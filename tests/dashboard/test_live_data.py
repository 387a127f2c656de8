"""Live data: only folders that changed are read again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from results_on_disk import write_run, write_sweep

from fundamentallm.cli.result_sources import read_live_sources
from fundamentallm.dashboard.live_data import KnownRuns, LiveData
from fundamentallm.report.read_runs import read_results

SCORES = {0.0001: [2.0, 2.01], 0.001: [1.5, 1.51], 0.01: [1.8, 1.81]}


def test_a_folder_is_read_again_only_if_a_file_changed(tmp_path: Path) -> None:
    folder, known = write_sweep(tmp_path / "s", SCORES), KnownRuns()
    first = read_results([folder], reader=known)
    assert known.count == 6
    assert read_results([folder], reader=known) == first == read_results([folder])
    assert known.count == 6
    with (folder / "run-0002/metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 90, "val_loss": 1.2}) + "\n")
    assert read_results([folder], reader=known).runs[1].score == 1.2
    assert known.count == 7
    (folder / "run-0003/summary.json").write_text("{")
    assert "run-0003: summary.json cannot be read" in read_results([folder], reader=known).notes
    assert "run-0003: summary.json cannot be read" in read_results([folder], reader=known).notes
    assert known.count == 8
    write_run(folder / "run-0007", {"learning_rate": 0.1, "seed": 0}, [3.0])
    shutil.rmtree(folder / "run-0001")
    runs = read_results([folder], reader=known).runs
    assert [run.name for run in runs] == [f"run-000{n}" for n in range(2, 8)]
    assert known.count == 9


def test_parts_follow_the_folders(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", {})
    live = LiveData(*read_live_sources([str(folder)], ""))
    everything = live.changes.since(0)
    assert everything.parts["about"]["summary"] == "no runs yet; method grid"
    assert "no run of this sweep has started" in everything.parts["words"]
    live.start()
    try:
        write_sweep(folder, SCORES)
        with live.watched():
            for _ in range(600):
                news = live.changes.since(everything.version)
                if "figure/best" in news.parts and "run/run-0006" in news.parts:
                    break
                live.wait(0.05)
    finally:
        live.stop()
    assert news.parts["about"]["summary"].startswith("6 runs: 6 done")
    assert "best val_loss: 1.5050" in news.parts["words"]


def test_a_link_that_appears_is_a_problem_and_not_followed(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", SCORES)
    secret = tmp_path / "secret.txt"
    secret.write_text("step 90, temperature 0.6, prompt of 3 characters\n    the secret\n\n")
    live = LiveData(*read_live_sources([str(folder)], ""))
    before = live.changes.since(0)
    live.start()
    (folder / "run-0001/samples.txt").symlink_to(secret)
    try:
        with live.watched():
            for _ in range(600):
                news = live.changes.since(before.version)
                if any(key.startswith("problem/") and text for key, text in news.parts.items()):
                    break
                live.wait(0.05)
    finally:
        live.stop()
    assert "samples.txt: a link" in str(news.parts)
    assert "the secret" not in str(live.changes.since(0).parts)


def test_nothing_is_sent_while_nothing_changes(tmp_path: Path) -> None:
    live = LiveData(*read_live_sources([str(write_sweep(tmp_path / "s", SCORES))], ""))
    live.start()
    try:
        with live.watched():
            live.wait(1.5)  # in which both threads looked
            version = live.changes.since(0).version
            live.wait(1.5)
    finally:
        live.stop()
    assert live.changes.since(0).version == version


@pytest.mark.parametrize("name", ["__proto__", "a/b", "run-0001"])
def test_names_of_runs_are_keys_as_they_are(tmp_path: Path, name: str) -> None:
    write_run(tmp_path / "runs" / name, {"seed": 0}, [2.0])
    write_run(tmp_path / "runs/other", {"seed": 1}, [2.1])
    live = LiveData(*read_live_sources([str(tmp_path / "runs")], ""))
    assert f"run/{name.rpartition('/')[2]}" in live.changes.since(0).parts
