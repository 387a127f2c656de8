"""Warm-up, stable, decay: the end in time, and the state before the decay."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import repeatable, start

from fundamentallm.config.hyperparameters import Config
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.model import sampling
from fundamentallm.training.checkpoint import Checkpoint
from fundamentallm.training.plan import Plan


@pytest.fixture(autouse=True)
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write less at each evaluation, which is most of the work of such runs."""
    monkeypatch.setattr(sampling, "SAMPLE_TOKENS", 10)


@pytest.fixture
def wsd(tiny: Config) -> Config:
    """Config of 24 steps with evaluations after every 8; the decay follows step 19."""
    return replace(tiny, lr_schedule="wsd", warmup_steps=3)


def test_the_trunk_is_the_state_before_the_decay(wsd: Config, text: str, tmp_path: Path) -> None:
    start(wsd, text, tmp_path / "run")
    trunk = Checkpoint.load(tmp_path / "run/trunk.pt")
    assert (trunk.progress["step"], trunk.progress["best_step"]) == (19, 16)
    assert (Checkpoint.load(tmp_path / "run/best.pt").progress["step"]) == 24
    start(replace(wsd, max_steps=16), text, tmp_path / "to 16")  # decays, but scored there too
    best = replace(trunk, model=trunk.best["model"], progress=trunk.best["progress"])
    assert best.build_model() is not None
    assert best.progress["step"] == best.progress["best_step"] == 16
    start(wsd, text, tmp_path / "run", checkpoint=trunk)  # the same again
    again = Checkpoint.load(tmp_path / "run/trunk.pt")
    assert all(torch.equal(trunk.model[name], again.model[name]) for name in trunk.model)
    RunFolder(tmp_path / "run").clear()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_trunk_before_any_evaluation_has_no_best(wsd: Config, text: str, tmp_path: Path) -> None:
    start(replace(wsd, eval_every=20), text, tmp_path)
    assert Checkpoint.load(tmp_path / "trunk.pt").best == {}


def test_a_run_without_a_stable_part_has_no_trunk(wsd: Config, text: str, tmp_path: Path) -> None:
    start(replace(wsd, decay_fraction=1.0, warmup_steps=0), text, tmp_path / "all")
    start(replace(wsd, warmup_steps=24), text, tmp_path / "warm")
    start(replace(wsd, lr_schedule="linear"), text, tmp_path / "linear")
    assert not list(tmp_path.glob("*/trunk.pt"))


def test_minutes_end_a_run_at_the_end_of_its_decay(wsd: Config, text: str, tmp_path: Path) -> None:
    config = replace(wsd, max_minutes=0.01, max_steps=0, epochs=1000, eval_every=1000)
    asked: list[int] = []
    trunk = tmp_path / "trunk.pt"

    def in_decay() -> str:
        asked.append(1)
        return "SIGTERM" if trunk.exists() else ""

    stopped = start(config, text, tmp_path, stop_requested=in_decay)
    last = Checkpoint.load(tmp_path / "last.pt")
    end = last.progress["last_step"]
    assert (stopped.status, stopped.step + 1) == ("interrupted", len(asked))
    done = start(config, text, tmp_path, checkpoint=last)
    assert (done.status, done.stopped_by, done.step) == ("done", "max_minutes", end)
    assert Checkpoint.load(trunk).progress["step"] == round(0.8 * end)
    rates: dict[Any, Any] = {r["step"]: r["optim/learning_rate"] for r in repeatable(tmp_path)}
    plan = Plan(config, 1, last_step=end)
    assert rates == {step: plan.learning_rate(step - 1) for step in rates}
    assert rates[end] == pytest.approx(0.1 * config.learning_rate)
    ended = Checkpoint.load(tmp_path / "last.pt")
    assert start(config, text, tmp_path, checkpoint=ended) == done
    assert RunFolder(tmp_path).read_summary()["total_steps"] == end
    longer = replace(config, max_minutes=0.02)
    assert start(longer, text, tmp_path, checkpoint=ended).step > end


def test_steps_that_end_first_keep_their_own_decay(wsd: Config, text: str, tmp_path: Path) -> None:
    done = start(replace(wsd, max_minutes=10.0), text, tmp_path / "minutes")
    assert done == start(wsd, text, tmp_path / "steps")
    assert repeatable(tmp_path / "minutes") == repeatable(tmp_path / "steps")
    plan = Plan(replace(wsd, max_minutes=1.0), 10)
    assert [plan.last_step_in_time(step, 48.0) for step in (10, 18, 19, 20)] == [12, 22, 0, 0]
    assert plan.last_step_in_time(18, 47.9) == 0
    whole = Plan(replace(wsd, max_minutes=1.0, decay_fraction=1.0, warmup_steps=0), 10)
    assert [whole.last_step_in_time(step, 60.0) for step in (0, 10)] == [0, 0]


def test_a_decay_over_the_whole_run_is_cut_by_minutes(wsd: Config, text: str) -> None:
    from fundamentallm.training.loop import train

    config = replace(wsd, decay_fraction=1.0, warmup_steps=0, max_minutes=1e-9)
    assert train(config, text, device="cpu").stopped_by == "max_minutes"


def test_a_run_that_lost_time_still_ends_in_time_and_decayed(
    wsd: Config, text: str, tmp_path: Path
) -> None:
    config = replace(wsd, max_minutes=1000.0, max_steps=0, epochs=100_000, eval_every=1000)
    asked: list[int] = []

    def after_30_steps() -> str:
        asked.append(1)
        return "SIGTERM" if len(asked) > 30 else ""

    stopped = start(config, text, tmp_path, stop_requested=after_30_steps)
    assert stopped.status == "interrupted"
    checkpoint = Checkpoint.load(tmp_path / "last.pt")
    checkpoint.progress["seconds"] = 1000.0
    # At 33 s a step, 100 s are less than a decay of 8 steps takes.
    result = start(config, text, tmp_path, checkpoint=checkpoint, end_by=time.time() + 100)
    last = Checkpoint.load(tmp_path / "last.pt").progress
    assert (result.status, result.stopped_by) == ("done", "max_minutes")
    assert 31 < result.step == last["last_step"] < 36
    rates = [row["optim/learning_rate"] for row in RunFolder(tmp_path).rows()]
    assert rates[-1] == pytest.approx(0.1 * config.learning_rate)


def test_the_decay_fits_the_time_that_is_left(wsd: Config) -> None:
    plan = Plan(replace(wsd, max_steps=0, epochs=1000), 10, most_seconds=100.0)
    assert [plan.last_step_in_time(800, seconds) for seconds in (79.9, 80.0, 80.5)] == [
        0,
        1000,
        1000,
    ]
    assert [plan.last_step_in_time(800, seconds) for seconds in (90.0, 99.99, 120)] == [
        889,
        801,
        801,
    ]
