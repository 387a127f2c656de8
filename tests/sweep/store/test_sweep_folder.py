"""Folder of a sweep: moved, renamed, with an odd name, and copies of run folders."""

from __future__ import annotations

import os
from pathlib import Path

from conftest import Run
from tiny_sweep import FLAGS, grid, summaries

from fundamentallm.sweep.store.sweep_folder import SweepFolder


def test_a_folder_that_was_renamed_is_the_same_sweep(
    run: Run, tmp_path: Path, text_file: Path
) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=1))
    command = ("sweep", "t.yaml", text_file, "--count=1")
    assert run(*command, "--", *FLAGS).returncode == 0
    (tmp_path / "runs/t").rename(tmp_path / "runs/first")
    before = (tmp_path / "runs/first/run-0001/metrics.jsonl").read_bytes()
    again = run("sweep", "t.yaml", text_file, "--output-dir=runs/first", "--", *FLAGS)
    assert again.returncode == 0, again.stderr
    assert len(summaries(tmp_path / "runs/first")) == 2
    assert (tmp_path / "runs/first/run-0001/metrics.jsonl").read_bytes() == before
    assert run("agent", "runs/first").returncode == 0


def test_a_folder_with_an_odd_name(run: Run, tmp_path: Path, text_file: Path) -> None:
    """CI services name folders after branches; in an address % and ? mean something."""
    (tmp_path / "t.yaml").write_text(grid(rates=1, seeds=1))
    folder = tmp_path / "feature%2Flr é?" / "t"
    begin = ("sweep", "t.yaml", text_file, "--output-dir", folder, "--count=0", "--", *FLAGS)
    assert run(*begin).returncode == 0
    assert (folder / "study.db").exists()
    done = run("agent", folder)
    assert done.returncode == 0, done.stderr
    assert len(summaries(folder)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["cats.txt", "t.yaml", "train.py", "feature%2Flr é?"]
    )


def test_what_is_taken_over_is_the_whole_copy(tmp_path: Path) -> None:
    """A worker that was killed while it deleted the old copy left half of it, and newer."""
    folder = SweepFolder(tmp_path)
    run_folder = folder.create_run(0)
    run_folder.last.write_text("whole")
    (run_folder.path / "output.txt").write_text("said before")
    half = tmp_path / ".run-0001-left-1"
    half.mkdir()
    (half / "metrics.jsonl").write_text("")
    (tmp_path / ".run-0001-part-1").mkdir()
    os.utime(run_folder.path, (1, 1))
    folder.replace_run(0)
    assert run_folder.last.read_text() == "whole"
    assert (run_folder.path / "output.txt").read_text() == "said before"
    assert [path.name for path in tmp_path.iterdir()] == ["run-0001"]
