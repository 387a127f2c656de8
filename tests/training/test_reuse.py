"""A run that continues an earlier one ends as if trained from scratch, or is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import repeatable

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.dataset import prepare
from fundamentallm.data.text import Text
from fundamentallm.files.held_folder import HeldFolder
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.model import sampling
from fundamentallm.trackers.folder import FolderTracker
from fundamentallm.training.checkpoint import Checkpoint
from fundamentallm.training.run import PreparedRun, Resume, execute
from fundamentallm.training.state import Result

MEASURED = ("seconds", "row_seconds", "reused_from", "reused_steps", "reused_seconds")
"""Parts of a training state that differ from those of a run from scratch."""


def start(
    config: Config,
    text: str,
    path: Path,
    reuse: Path | None = None,
    stop_requested: Callable[[], str] = lambda: "",
) -> Result:
    folder = RunFolder(path)
    folder.create()
    dataset = prepare(Text.of(text), config)
    with folder.held():
        return execute(
            PreparedRun(config, dataset, torch.device("cpu")),
            folder,
            lambda: [FolderTracker(folder)],
            resume=Resume.IF_POSSIBLE,
            stop_requested=stop_requested,
            reuse=None if reuse is None else RunFolder(reuse),
        ).result


def assert_same(one: object, other: object, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), where
        for name in one.keys() - set(MEASURED):
            assert_same(one[name], other[name], f"{where} {name}")
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where} {number}")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def assert_same_runs(one: Path, other: Path) -> None:
    assert repeatable(one) == repeatable(other)
    assert (one / "samples.txt").read_text() == (other / "samples.txt").read_text()
    for file in one.glob("*.pt"):
        whole, reused = (vars(Checkpoint.load(run / file.name)) for run in (one, other))
        assert_same(whole, reused)


@pytest.fixture(autouse=True)
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write less at each evaluation, which is most of the work of such runs."""
    monkeypatch.setattr(sampling, "SAMPLE_TOKENS", 10)


@pytest.fixture
def wsd(tiny: Config) -> Config:
    """Config of 24 steps with evaluations after every 8; the decay follows step 19."""
    return replace(tiny, lr_schedule="wsd", warmup_steps=3, dropout=0.1)


def test_it_ends_as_one_from_scratch(wsd: Config, text: str, tmp_path: Path) -> None:
    start(wsd, text, tmp_path / "24")
    lengths = [replace(wsd, max_steps=48), replace(wsd, max_steps=96, epochs=1000)]
    for length, config, before in zip((48, 96), lengths, (24, 48), strict=True):
        whole = start(config, text, tmp_path / "whole")
        reused = tmp_path / str(length)
        assert start(config, text, reused, tmp_path / str(before)) == whole
        assert_same_runs(tmp_path / "whole", reused)
        summary = RunFolder(reused).read_summary()
        assert summary["reused_from"] == f"{tmp_path.name}/{before}"
        assert summary["reused_steps"] == round(0.8 * before)
        RunFolder(tmp_path / "whole").clear()


def test_the_newest_state_that_both_share_is_taken(
    tiny: Config, wsd: Config, text: str, tmp_path: Path
) -> None:
    constant = replace(tiny, max_steps=16)
    start(constant, text, tmp_path / "constant")
    calls = iter(range(100))
    start(wsd, text, tmp_path / "stopped", stop_requested=lambda: "me" * (next(calls) >= 22))
    for config, name in ((constant, "constant"), (wsd, "stopped")):
        longer = replace(config, max_steps=40)
        whole = start(longer, text, tmp_path / f"{name} whole")
        assert start(longer, text, tmp_path / f"{name} longer", tmp_path / name) == whole
        assert_same_runs(tmp_path / f"{name} whole", tmp_path / f"{name} longer")
        step = RunFolder(tmp_path / name).read_summary()["step"]
        assert step == 16 if config is constant else 16 < step < 19
        assert RunFolder(tmp_path / f"{name} longer").read_summary()["reused_steps"] == step


def test_a_kill_at_any_moment_of_the_copy_costs_nothing_but_the_copy(
    wsd: Config, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    start(wsd, text, tmp_path / "source")
    longer, killed = replace(wsd, max_steps=40), tmp_path / "killed"
    start(longer, text, tmp_path / "whole")
    move, written = HeldFolder.move, []
    for moment in range(5):
        left = iter(range(moment))

        def move_or_die(self: HeldFolder, *names: Any, left: Any = left) -> None:
            if next(left, None) is None:
                raise Killed
            move(self, *names)
            written.append(names[1])

        monkeypatch.setattr(HeldFolder, "move", move_or_die)
        with pytest.raises(Killed):
            start(longer, text, killed, tmp_path / "source")
        assert not (killed / "last.pt").exists()
    monkeypatch.setattr(HeldFolder, "move", move)
    assert written[-4:] == ["summary.json", "best.pt", "metrics.jsonl", "samples.txt"]
    start(longer, text, killed, tmp_path / "source")
    assert_same_runs(tmp_path / "whole", killed)
    assert RunFolder(killed).read_summary()["reused_steps"] == 19


def test_what_is_not_the_same_so_far_is_trained_from_scratch(
    wsd: Config, text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = replace(wsd, max_steps=10, eval_every=5, max_seq_len=8)
    source = tmp_path / "source"
    start(short, text, source)
    whole = (source / "trunk.pt").read_bytes()
    longer = replace(short, max_steps=12)
    cases: list[tuple[Config, str, str]] = [
        (replace(longer, dropout=0.2), text, "--dropout was 0.1 and is now 0.2"),
        (replace(longer, max_steps=9), text, "step 8 has another learning rate in this run"),
        (replace(longer, max_steps=6), text, "it has 8 steps, and this run only 6"),
        (replace(longer, early_stopping=True), text, "this run may stop earlier"),
        (longer, text + "!", "give the same text"),
        (longer, text, "altered since it was written"),
        (longer, text, "the rows of steps 1 to 5 are missing"),
        (longer, text, "No such file"),
    ]
    for number, (config, read, why) in enumerate(cases):
        if "altered" in why:
            (source / "trunk.pt").write_bytes(whole.replace(b"val_loss", b"val_lass"))
        if "rows" in why:
            (source / "trunk.pt").write_bytes(whole)
            (source / "metrics.jsonl").write_text("")
        if "file" in why:
            RunFolder(source).clear()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            done = start(config, read, tmp_path / str(number), source)
        (line,) = (each for each in caplog.messages if "is not reused" in each)
        assert line.startswith(f"{tmp_path.name}/source is not reused: ")
        assert why in line
        assert (done.status, done.step) == ("done", config.max_steps)
        assert "reused_from" not in RunFolder(tmp_path / str(number)).read_summary()


def test_a_run_that_was_annealed_on_the_way_is_no_start(
    wsd: Config, text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start(wsd, text, tmp_path / "source")
    start(replace(wsd, max_steps=40), text, tmp_path / "source")  # resumed: the rate jumps
    start(replace(wsd, max_steps=80), text, tmp_path / "longer", tmp_path / "source")
    assert "source is not reused: step 20 has another learning rate" in caplog.text
