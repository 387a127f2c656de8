"""Promise 11: of two users of one folder, one works and the other names the holder."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from conftest import Run
from tiny_sweep import FLAGS, grid, start, summaries, wait_for


def test_two_runs_in_one_folder(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    flags = [text_file, *tiny_flags, "--output-dir=out"]
    first = start(tmp_path, "train", *flags, "--max-steps=1000000")
    wait_for((tmp_path / "out/last.pt").exists)
    find = ["find", "learning-rate", text_file, "--output-dir=out", "--overwrite"]
    for second_flags in (["train", *flags, "--resume"], ["train", *flags, "--overwrite"], find):
        second = run(*second_flags)
        assert second.returncode == 2
        assert f"a run is in progress there (process {first.pid} on " in second.stderr
        assert "wait for its end, or give another folder" in second.stderr
    os.kill(first.pid, signal.SIGKILL)  # the lock of a dead process releases itself
    first.communicate()
    third = run("train", *flags, "--overwrite")
    assert third.returncode == 0, third.stderr


def test_two_sweeps_started_at_once_in_one_folder(tmp_path: Path, text_file: Path) -> None:
    commands: list[tuple[object, ...]] = []
    for number, rates in enumerate((1, 2)):
        file = tmp_path / f"{number}.yaml"
        file.write_text(grid(rates=rates, seeds=1))
        words = ("sweep", file, text_file, "--output-dir=runs/one", "--workers=1", "--", *FLAGS)
        commands.append(words)
    processes = [start(tmp_path, *words) for words in commands]
    outputs = [each.communicate(timeout=120)[0] for each in processes]
    codes = [each.returncode for each in processes]
    assert sorted(codes) == [0, 2], outputs
    refused = outputs[codes.index(2)]
    assert "this sweep was created with different settings" in refused
    assert "give another --output-dir" in refused
    assert len(summaries(tmp_path / "runs/one")) == codes.index(0) + 1


def test_a_sweep_with_another_storage_is_refused(
    run: Run, tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.yaml").write_text(grid(rates=1, seeds=1))
    words = ("sweep", "tiny.yaml", text_file, "--workers=1", "--", *FLAGS)
    assert run(*words).returncode == 0
    before = summaries(tmp_path / "runs/tiny")
    monkeypatch.setenv("FUNDAMENTALLM_STORAGE", f"sqlite:///{tmp_path}/other.db")
    refused = run("sweep", "tiny.yaml", text_file, "--workers=1", "--", *FLAGS, "--model-dim=8")
    assert refused.returncode == 2
    assert "its runs are stored in sqlite:" in refused.stderr
    assert summaries(tmp_path / "runs/tiny") == before
    assert not (tmp_path / "other.db").exists()
    monkeypatch.delenv("FUNDAMENTALLM_STORAGE")
    assert run(*words).returncode == 0


def test_one_sweep_started_twice_at_once_is_shared(tmp_path: Path, text_file: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(grid(rates=3, seeds=2))
    words = ("sweep", file, text_file, "--workers=1", "--", *FLAGS)
    processes = [start(tmp_path, *words) for _ in range(2)]
    outputs = [each.communicate(timeout=120)[0] for each in processes]
    assert [each.returncode for each in processes] == [0, 0], outputs
    assert len(summaries(tmp_path / "runs/tiny")) == 6
    done = sum(text.count(" done, val_loss") for text in outputs)
    assert done == 6
