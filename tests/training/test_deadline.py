"""A deadline ends training like `max_minutes`, also where kills have taken time."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fundamentallm.config.hyperparameters import Config
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.training.checkpoint import Checkpoint
from fundamentallm.training.loop import train
from fundamentallm.training.plan import Plan


@pytest.fixture
def long(tiny: Config) -> Config:
    """Run of many minutes."""
    return replace(tiny, lr_schedule="wsd", max_steps=0, epochs=10**5, max_minutes=1000)


def test_a_run_decays_before_its_deadline(long: Config, text: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    done = train(long, text, folder=folder, end_by=time.time() + 1.5)
    assert (done.status, done.stopped_by) == ("done", "max_minutes")
    progress = Checkpoint.load(folder.last).progress
    assert progress["last_step"] == done.step
    assert folder.trunk.exists()


def test_a_run_after_its_deadline_takes_a_step(long: Config, text: str) -> None:
    done = train(long, text, end_by=time.time() - 10)
    assert done.status == "done"
    assert done.step in (1, 2)


def test_a_resumed_run_ends_sooner_by_the_time_that_was_lost(
    long: Config, text: str, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)

    def in_decay() -> str:
        return "SIGTERM" if folder.trunk.exists() else ""

    long = replace(long, max_minutes=0.05)
    stopped = train(long, text, folder=folder, stop_requested=in_decay)
    assert stopped.status == "interrupted"
    last = Checkpoint.load(folder.last)
    assert last.progress["last_step"] > stopped.step + 1
    resumed = train(long, text, folder=folder, checkpoint=last, end_by=time.time() - 1)
    assert resumed.status == "done"
    assert resumed.step == stopped.step + 1


def test_the_last_step_is_planned_by_the_speed_so_far(tiny: Config) -> None:
    plan = Plan(replace(tiny, lr_schedule="wsd", max_steps=0), 10**6)
    assert plan.last_step_by_deadline(900, 100, 10.0) == 900
    assert replace(plan, most_seconds=15.0).last_step_by_deadline(900, 100, 10.0) == 150
    assert replace(plan, most_seconds=5.0).last_step_by_deadline(900, 100, 10.0) == 101
    assert replace(plan, most_seconds=math.inf).last_step_in_time(100, 1e9) == 0
    assert replace(plan, most_seconds=12.5).last_step_in_time(100, 9.9) == 0
    assert replace(plan, most_seconds=12.5).last_step_in_time(100, 10.0) == 125
