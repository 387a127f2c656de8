"""A run that is stopped or fails at an odd moment loses nothing and gets one error line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXT, Run

from fundamentallm import Config, train
from fundamentallm.data.dataset import prepare
from fundamentallm.data.text import Text
from fundamentallm.errors import FundamentallmError
from fundamentallm.files.atomic import DiskError
from fundamentallm.files.ownership import MARK
from fundamentallm.files.run_folder import (
    RunFolder,
)
from fundamentallm.trackers.folder import FolderTracker
from fundamentallm.training import loop, lr_range_test
from fundamentallm.training.checkpoint import Checkpoint, CheckpointError
from fundamentallm.training.train_step import OutOfMemoryError, TrainStep


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != ".lock"}


def start(config: Config, folder: RunFolder, **more: Any) -> loop.Result:
    folder.create()
    trackers = [FolderTracker(folder)]
    return train(config, TEXT, folder=folder, trackers=trackers, device="cpu", **more)


def test_resuming_a_started_run_without_last_pt_is_refused(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    flags = [*tiny_flags, "--output-dir=out", "--no-wandb"]
    assert run("train", text_file, *flags).returncode == 0
    (tmp_path / "out/last.pt").unlink()
    before = contents(tmp_path / "out")
    done = run("train", "--output-dir=out", "--no-wandb", "--resume")
    assert done.returncode == 2
    assert "last.pt is gone" in done.stderr
    assert contents(tmp_path / "out") == before
    first = (tmp_path / "out/metrics.jsonl").read_text().splitlines(keepends=True)[0]
    (tmp_path / "out/metrics.jsonl").write_text(first)
    done = run("train", "--output-dir=out", "--no-wandb", "--resume")
    assert done.returncode == 2  # the run ended and was scored once
    for status in ("oom", "running"):  # it ended or was killed before its first checkpoint
        (tmp_path / "out/summary.json").write_text(json.dumps({"status": status}))
        (tmp_path / "out/metrics.jsonl").write_text(first)
        (tmp_path / "out/last.pt").unlink(missing_ok=True)
        assert run("train", "--output-dir=out", "--no-wandb", "--resume").returncode == 0
    assert (tmp_path / "out/last.pt").exists()


@pytest.mark.parametrize(
    ("flags", "code"),
    [(["--device=cuda:7"], 2), (["--model-dim=65536", "--num-layers=1000"], 1)],
    ids=["a missing device", "a model that does not fit"],
)
@pytest.mark.parametrize("command", [["train"], ["find", "learning-rate"]], ids=["train", "find"])
def test_a_run_that_cannot_start_overwrites_nothing(
    command: list[str], flags: list[str], code: int, run: Run, text_file: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "out")
    folder.create()
    folder.write_config({**vars(Config()), "data": "x", "data_sha256": "0"})
    folder.write_summary({"status": "done", "total_steps": 8})
    folder.last.write_bytes(b"precious" + MARK)
    before = contents(folder.path)
    more = ["--no-wandb"] if command == ["train"] else []
    done = run(*command, text_file, "--output-dir=out", "--overwrite", *flags, *more)
    assert done.returncode == code, done.stderr
    lines = [x for x in done.stderr.splitlines() if not x.startswith("warning: --")]
    assert len(lines) == 1, done.stderr
    assert contents(folder.path) == before


def test_a_sample_cut_inside_a_character_does_not_stop_a_resumed_run(
    tiny: Config, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "out")
    start(tiny, folder)
    with folder.samples.open("ab") as file:
        file.write("step 24, temperature 0.6, prompt of 2 characters\n    Ж".encode()[:-1])
    longer = replace(tiny, max_steps=32)
    assert start(longer, folder, checkpoint=Checkpoint.load(folder.last)).step == 32


def test_a_run_stopped_before_its_divergence_is_noticed_is_diverged(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses are fetched every tenth step; the stop comes earlier."""
    folder, stops = RunFolder(tmp_path / "out"), iter([""] * 5)
    diverged = (torch.tensor(math.nan), torch.tensor(1.0))
    monkeypatch.setattr(TrainStep, "step", lambda *_: diverged)
    result = start(tiny, folder, stop_requested=lambda: next(stops, "SIGINT"))
    assert result.status == "diverged"
    assert folder.read_summary()["status"] == "diverged"


def test_a_disk_that_is_full_when_a_run_is_stopped(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Checkpoint, path: Path, root: object) -> None:
        raise DiskError(f"{path}: cannot be written (No space left on device)")

    folder = RunFolder(tmp_path / "out")
    monkeypatch.setattr(Checkpoint, "save", full)
    with pytest.raises(DiskError):
        start(tiny, folder, stop_requested=lambda: "SIGTERM")
    assert folder.read_summary()["status"] == "failed"


def test_every_tracker_is_finished_even_if_one_fails(tiny: Config) -> None:
    finished = []

    class Tracker:
        def __init__(self, name: str) -> None:
            self.name = name

        def start(self, *settings: object, **more: object) -> None: ...
        def log(self, metrics: Mapping[str, float], *, step: int) -> None: ...
        def log_samples(self, samples: object, *, step: int) -> None: ...
        def finish(self, summary: Mapping[str, object]) -> None:
            finished.append(self.name)
            if self.name == "b":
                raise DiskError("full")

    with pytest.raises(DiskError, match="full"):
        train(tiny, TEXT, trackers=[Tracker(name) for name in "abc"], device="cpu")
    assert finished == ["a", "b", "c"]


@pytest.mark.parametrize("where", ["training_batch", "score"])
def test_out_of_memory_outside_a_step(
    where: str, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: Any, **__: Any) -> None:
        raise MemoryError

    folder = RunFolder(tmp_path / "out")
    monkeypatch.setattr(loop, where, none_left)
    with pytest.raises(OutOfMemoryError, match="give a smaller --batch-size"):
        start(tiny, folder)
    assert folder.read_summary()["status"] == "oom"


def test_speed_after_a_resume_counts_only_timed_steps(tiny: Config, tmp_path: Path) -> None:
    config = replace(tiny, max_steps=60, eval_every=1000)
    whole, parted = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parted")
    start(config, whole)
    stops = iter([""] * 37)
    start(config, parted, stop_requested=lambda: next(stops, "SIGINT"))
    start(config, parted, checkpoint=Checkpoint.load(parted.last))
    speeds = [
        [row["perf/tokens_per_second"] for row in folder.rows()][1:] for folder in (whole, parted)
    ]
    assert len(speeds[0]) == len(speeds[1])
    assert max(speeds[1]) < 5 * max(speeds[0])  # a bug made them 4,000 times as high


def test_a_row_left_unfinished_by_an_older_version(tiny: Config, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    stops = iter([""] * 8)  # before each of eight steps; then in the first evaluation
    start(tiny, folder, stop_requested=lambda: next(stops, "SIGINT"))
    left = Checkpoint.load(folder.last)
    assert left.progress["evaluating"]
    assert left.progress["losses"]
    del left.progress["row_seconds"]
    assert start(tiny, folder, checkpoint=left).step == tiny.max_steps
    assert all(0 < row["perf/tokens_per_second"] < 1e7 for row in folder.rows())


def test_progress_of_another_version_is_refused(tiny: Config, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    start(tiny, folder)
    odd = Checkpoint.load(folder.last)
    odd.progress["seen_by"] = "somebody else"
    with pytest.raises(CheckpointError, match="use the version that wrote it"):
        start(replace(tiny, max_steps=30), folder, checkpoint=odd)


@pytest.mark.parametrize(
    ("error", "raised", "status"),
    [
        (OutOfMemoryError("too large"), OutOfMemoryError, "oom"),
        (MemoryError(), OutOfMemoryError, "oom"),  # numpy cannot allocate a batch
        (DiskError("full"), DiskError, "failed"),
    ],
)
def test_the_status_of_a_failed_range_test(
    error: Exception,
    raised: type[FundamentallmError],
    status: str,
    tiny: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    folder = RunFolder(tmp_path)
    monkeypatch.setattr(TrainStep, "step", fail)
    with pytest.raises(raised):
        lr_range_test.find_learning_rate(
            tiny, prepare(Text.of(TEXT), tiny), device="cpu", trackers=[FolderTracker(folder)]
        )
    assert folder.read_summary()["status"] == status
