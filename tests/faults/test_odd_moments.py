"""What is missing, cut off, or asked for at the wrong moment loses nothing and has one line."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXT, Run

from fundamentallm import Config, train
from fundamentallm.data.dataset import prepare
from fundamentallm.data.text import DataError, Text, read_text
from fundamentallm.data.vocabulary import Vocabulary
from fundamentallm.errors import FundamentallmError
from fundamentallm.files.atomic import DiskError
from fundamentallm.files.ownership import MARK
from fundamentallm.files.run_folder import (
    RunFolder,
    RunFolderError,
    new_run_folder,
    read_flat_yaml,
)
from fundamentallm.model.sampling import continue_text
from fundamentallm.model.transformer import Transformer
from fundamentallm.trackers.folder import FolderTracker
from fundamentallm.training import loop, lr_range_test
from fundamentallm.training.checkpoint import Checkpoint, CheckpointError
from fundamentallm.training.plan import Plan
from fundamentallm.training.train_step import OutOfMemoryError, TrainStep


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != ".lock"}


def start(config: Config, folder: RunFolder, **more: Any) -> loop.Result:
    folder.create()
    trackers = [FolderTracker(folder)]
    return train(config, TEXT, folder=folder, trackers=trackers, device="cpu", **more)


def test_resuming_without_last_pt_is_refused_unless_it_never_was(
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
    assert done.returncode == 2  # a run that has ended, and was scored once
    for status in ("oom", "running"):  # it ended, or was killed, before it could be written
        (tmp_path / "out/summary.json").write_text(json.dumps({"status": status}))
        (tmp_path / "out/metrics.jsonl").write_text(first)
        (tmp_path / "out/last.pt").unlink(missing_ok=True)
        assert run("train", "--output-dir=out", "--no-wandb", "--resume").returncode == 0
    assert (tmp_path / "out/last.pt").exists()


@pytest.mark.parametrize(
    ("flags", "code"),
    [(["--device=cuda:7"], 2), (["--model-dim=65536", "--num-layers=1000"], 1)],
    ids=["a device that is not there", "a model that does not fit"],
)
@pytest.mark.parametrize("command", [["train"], ["find", "learning-rate"]], ids=["train", "find"])
def test_what_cannot_start_overwrites_nothing(
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


def test_a_run_that_diverged_is_so_called_if_it_is_stopped_before_anybody_saw(
    tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses are fetched every tenth step; the stop comes before."""
    folder, asked = RunFolder(tmp_path / "out"), iter([""] * 5)
    diverged = (torch.tensor(math.nan), torch.tensor(1.0))
    monkeypatch.setattr(TrainStep, "step", lambda *_: diverged)
    result = start(tiny, folder, stop_requested=lambda: next(asked, "SIGINT"))
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


def test_every_tracker_hears_of_the_end_whichever_fails(tiny: Config) -> None:
    heard = []

    class Tracker:
        def __init__(self, name: str) -> None:
            self.name = name

        def start(self, settings: Mapping[str, object], *, total_steps: int, step: int) -> None: ...
        def log(self, metrics: Mapping[str, float], *, step: int) -> None: ...
        def log_samples(self, samples: object, *, step: int) -> None: ...
        def finish(self, summary: Mapping[str, object]) -> None:
            heard.append(self.name)
            if self.name == "b":
                raise DiskError("full")

    with pytest.raises(DiskError, match="full"):
        train(tiny, TEXT, trackers=[Tracker(name) for name in "abc"], device="cpu")
    assert heard == ["a", "b", "c"]


@pytest.mark.parametrize("where", ["training_batch", "score"])
def test_memory_that_runs_out_outside_a_step(
    where: str, tiny: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: Any, **__: Any) -> None:
        raise MemoryError

    folder = RunFolder(tmp_path / "out")
    monkeypatch.setattr(loop, where, none_left)
    with pytest.raises(OutOfMemoryError, match="give a smaller --batch-size"):
        start(tiny, folder)
    assert folder.read_summary()["status"] == "oom"


def test_speed_after_a_stop_is_of_steps_that_were_timed(tiny: Config, tmp_path: Path) -> None:
    config = replace(tiny, max_steps=60, eval_every=1000)
    whole, parted = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parted")
    start(config, whole)
    asked = iter([""] * 37)
    start(config, parted, stop_requested=lambda: next(asked, "SIGINT"))
    start(config, parted, checkpoint=Checkpoint.load(parted.last))
    speeds = [
        [row["perf/tokens_per_second"] for row in folder.rows()][1:] for folder in (whole, parted)
    ]
    assert len(speeds[0]) == len(speeds[1])
    assert max(speeds[1]) < 5 * max(speeds[0])  # they were 4,000 times


def test_a_row_that_an_older_version_left_unfinished(tiny: Config, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    asked = iter([""] * 8)  # before each of eight steps; then in the first evaluation
    start(tiny, folder, stop_requested=lambda: next(asked, "SIGINT"))
    left = Checkpoint.load(folder.last)
    assert left.progress["evaluating"]
    assert left.progress["losses"]
    del left.progress["row_seconds"]
    assert start(tiny, folder, checkpoint=left).step == tiny.max_steps
    assert all(0 < row["perf/tokens_per_second"] < 1e7 for row in folder.rows())


@pytest.mark.parametrize("line", ["seed: 2020-99-99", "seed: !!int abc", "seed: !!timestamp x"])
def test_a_file_of_values_that_yaml_itself_cannot_make(line: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(line)
    with pytest.raises(RunFolderError, match=r"config.yaml"):
        read_flat_yaml(tmp_path / "config.yaml")


def test_a_folder_of_runs_that_is_a_link_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(tmp_path / "not mounted")
    with pytest.raises(RunFolderError, match="runs: no folder can be created there"):
        new_run_folder(tmp_path / "runs", "x")


def test_a_long_text_where_there_is_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert len(prepare(Text.of(TEXT * 100), Config()).train) > 1_000_000


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "t\udce9xt.txt").write_text(TEXT)
    with pytest.raises(DataError, match="this name is not UTF-8"):
        read_text(tmp_path / "t\udce9xt.txt")


@pytest.mark.parametrize("words", [["generate"], ["train", "--resume", "--output-dir"]])
def test_a_path_that_is_too_long(words: list[str], run: Run) -> None:
    done = run(*words, "x" * 300)
    assert done.returncode == 2
    assert "File name too long" in done.stderr
    assert "Traceback" not in done.stderr


def test_samples_that_the_terminal_cannot_show(
    run: Run, tmp_path: Path, tiny_flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ru.txt").write_text("Мама мыла раму, и ещё раз. " * 400, "utf-8")
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    done = run("train", "ru.txt", *tiny_flags, "--no-wandb", "--output-dir=out")
    assert done.returncode == 0, done.stderr
    assert r"\u0430" in done.stdout
    assert "рам" in (tmp_path / "out/samples.txt").read_text("utf-8")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_output_that_cannot_be_written_stops_and_saves(
    text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    words = [sys.executable, "-c", "import sys; from fundamentallm.cli.main import main; main()"]
    more = ["train", str(text_file), *tiny_flags, "--no-wandb", "--output-dir=out"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*words, *more, "--max-steps=100000"],
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr


def test_a_prompt_of_bytes_is_whole_characters(tiny: Config) -> None:
    vocabulary = Vocabulary.of(["ж"], "byte")
    torch.manual_seed(0)
    model = Transformer(len(vocabulary), tiny).eval()
    tokens = vocabulary.encode("x" + "ж" * 40)  # 40 tokens end inside a character
    assert continue_text(model, vocabulary, tokens, seed=0).prompt == "x" + "ж" * 19


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
        (MemoryError(), OutOfMemoryError, "oom"),  # of a batch that numpy finds no room for
        (DiskError("full"), DiskError, "failed"),
    ],
)
def test_a_range_test_that_fails_says_so(
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


def test_steps_are_counted_in_whole_numbers() -> None:
    for batches in range(1, 400, 7):
        for accumulation in (3, 7, 25, 49):
            for epochs in (1, 7, 50, 100):
                plan = Plan(Config(gradient_accumulation=accumulation, epochs=epochs), batches)
                assert plan.total_steps == math.ceil(batches * epochs / accumulation - 1e-12)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"lr_steps": "10,20"}, "--lr-steps does nothing without --lr-schedule step"),
        ({"lr_decay": 0.5, "lr_schedule": "linear"}, "--lr-decay does nothing without"),
        ({"min_lr_ratio": 0.5}, "--min-lr-ratio does nothing without --lr-schedule cosine or"),
        ({"patience": 2}, "--patience does nothing without --early-stopping"),
        ({"gradient_accumulation": 101}, "--gradient-accumulation 101 is more than the 100 batch"),
    ],
)
def test_what_does_nothing_is_said(settings: dict[str, Any], line: str) -> None:
    (found,) = Plan(Config(**settings), 100).warnings()
    assert found.startswith(line)


def test_minutes_that_end_a_falling_rate_say_how_many_steps_they_are_worth(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    flags = ["--lr-schedule=linear", "--max-minutes=0.01", "--max-steps=100000", "--no-wandb"]
    done = run("train", text_file, *tiny_flags, *flags, "--output-dir=out")
    steps = json.loads((tmp_path / "out/summary.json").read_text())["step"]
    assert f"a run of --max-steps {steps} ends with it low" in done.stderr
