"""A run that blew up and stayed finite is no good run; a slow one is not called diverged."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Run

from fundamentallm import Config, train
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.trackers.folder import FolderTracker
from fundamentallm.training.checkpoint import Checkpoint
from fundamentallm.training.state import Result

GUESS = math.log(32)  # of `text`


@pytest.fixture
def beyond() -> Config:
    """A rate far beyond the cliff; the loss stays finite."""
    return Config(
        model_dim=32, num_layers=2, num_heads=2, max_seq_len=32, batch_size=8,
        learning_rate=0.3, lr_schedule="constant", max_steps=40, eval_every=10,
    )  # fmt: skip


def start(config: Config, text: str, path: Path, **options: object) -> Result:
    folder = RunFolder(path)
    folder.create()
    trackers = [FolderTracker(folder)]
    return train(config, text, folder=folder, trackers=trackers, device="cpu", **options)  # pyright: ignore


def test_a_run_worse_than_guessing_has_diverged(beyond: Config, text: str, tmp_path: Path) -> None:
    result = start(beyond, text, tmp_path)
    assert result.status == "diverged"
    assert result.stopped_by.endswith("was never below 3.4657, that of a uniform guess")
    summary = json.loads((tmp_path / "summary.json").read_text())
    rows = [row for row in RunFolder(tmp_path).rows() if "val_loss" in row]
    assert [row["step"] for row in rows] == [10, 20, 30, 40]  # not ended before
    assert summary["best_val_loss"] == min(row["val_loss"] for row in rows) > GUESS  # as it was


def test_it_is_judged_alike_in_one_piece_and_in_two(
    beyond: Config, text: str, tmp_path: Path
) -> None:
    whole = start(beyond, text, tmp_path / "whole")
    asked: list[None] = []

    def after_a_while() -> str:
        asked.append(None)
        return "SIGTERM" if len(asked) > 25 else ""

    parts = start(beyond, text, tmp_path / "parts", stop_requested=after_a_while)
    assert parts.status == "interrupted"
    for _ in range(2):  # the second time there is no step left
        last = Checkpoint.load(tmp_path / "parts/last.pt")
        again = start(beyond, text, tmp_path / "parts", checkpoint=last)
        assert again == whole


def test_early_stopping_makes_no_good_run_of_it(beyond: Config, text: str) -> None:
    config = replace(beyond, early_stopping=True, patience=1, max_steps=400)
    result = train(config, text, device="cpu")
    assert result.step < 400
    assert result.status == "diverged"


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 1e-7},  # it has hardly moved
        {"warmup_steps": 40},  # it is still in its warm-up
        {"eval_every": 40},  # one evaluation says too little
        {"lr_schedule": "cosine", "max_steps": 60},  # the rate falls, and it recovers
    ],
)
def test_what_may_be_a_slow_starter_has_not_diverged(
    beyond: Config, text: str, change: dict[str, object]
) -> None:
    result = train(replace(beyond, **change), text, device="cpu")  # pyright: ignore
    assert (result.status, result.stopped_by) == ("done", "max_steps")


def test_a_validation_part_that_is_unlike_the_text_is_no_divergence(beyond: Config) -> None:
    text = "uvwxyz" + 3000 * "ab" + 100 * "uvwxyz"
    result = train(replace(beyond, learning_rate=0.01), text, device="cpu")
    assert result.best_val_loss > math.log(8)
    assert result.status == "done"


def test_the_command_says_so_and_fails(run: Run, text_file: Path, tiny_flags: list[str]) -> None:
    flags = [*tiny_flags, "--model-dim=32", "--learning-rate=0.3", "--max-steps=40"]
    done = run("train", text_file, *flags)
    assert done.returncode == 1
    assert "was never below 3.4657, that of a uniform guess; likely fixes:" in done.stderr
    assert "--learning-rate" in done.stderr
