"""The time that a sweep has left, from its finished runs and its running trials."""

from __future__ import annotations

import pytest

from fundamentallm.cli.time_left import TrialProgress, done_share, mean_seconds, seconds_left
from fundamentallm.status import RunStatus
from fundamentallm.sweep.engine.job import Row
from fundamentallm.sweep.store.records import Run, RunIndex, Trial


def trial(number: int, status: str = "running", seconds: float = 0.0, **more: object) -> Trial:
    return Trial(number, number, {"x": number}, RunStatus(status), "me", seconds=seconds, **more)  # pyright: ignore


def running(number: int, started_at: float = 0.0, **more: object) -> TrialProgress:
    return TrialProgress(Run(number, (trial(number),)), started_at, **more)  # pyright: ignore


def test_a_trial_ends_when_its_pace_says() -> None:
    slow = running(0)
    assert (slow.share(3), slow.seconds_left(3), slow.seconds_whole()) == (None, None, None)
    slow.add(Row(10, 100, {"train_loss": 3.0}), 5.0)  # the five seconds are mostly its start
    assert (slow.share(5), slow.seconds_left(5)) == (0.1, None)
    slow.add(Row(20, 100, {"train_loss": 2.5}), 6.0)
    assert (slow.share(6), slow.seconds_left(6), slow.seconds_whole()) == (0.2, 8.0, 10.0)
    assert slow.seconds_left(9) == 5.0  # it moves without a row
    assert slow.seconds_left(99) == 0.0


def test_a_resumed_trial_counts_what_was_done_before() -> None:
    resumed = running(0, resumes=True)
    resumed.add(Row(80, 100, {"train_loss": 3.0}), 5.0)
    resumed.add(Row(90, 100, {"train_loss": 3.0}), 25.0)
    assert (resumed.share(25), resumed.seconds_left(25), resumed.seconds_whole()) == (0.9, 20, 200)


def test_a_trial_that_ends_by_time() -> None:
    limited = running(0, most_seconds=60.0)
    limited.add(Row(10, 1_000_000, {"train_loss": 3.0}), 10.0)
    limited.add(Row(20, 1_000_000, {"train_loss": 3.0}), 25.0)
    assert (limited.share(25), limited.seconds_left(25)) == (0.25, 45.0)
    assert limited.seconds_whole() == 60.0


def test_a_program_does_not_say_how_long_it_runs() -> None:
    other, runs = running(1), RunIndex.of([trial(0, "done", 60.0), trial(1)])
    other.add(Row(10, 0, {"loss": 3.0}), 5.0)
    other.add(Row(20, 0, {"loss": 3.0}), 15.0)
    assert (other.share(15), other.seconds_left(15)) == (None, None)
    assert seconds_left(runs, [other], 0, 15) == 45.0  # as long as the finished run
    assert seconds_left(runs, [other], 0, 99) == 0.0
    assert done_share(runs, {1: other}, 4, 15) == 0.25


def test_runs_that_were_stopped_early_shorten_the_mean() -> None:
    runs = RunIndex.of([trial(0, "done", 100), trial(1, "stopped", 10), trial(2, "impossible")])
    assert mean_seconds(runs, []) == pytest.approx(110 / 3)


def test_a_run_took_as_long_as_all_its_trials() -> None:
    parts = [trial(0, "interrupted", 70), Trial(1, 0, {"x": 0}, RunStatus.DONE, "me", seconds=30)]
    runs = RunIndex.of(parts)
    assert mean_seconds(runs, []) == 100
    assert RunIndex.of(parts[:1]).seconds == 0


def test_the_mean_does_not_jump_when_a_trial_ends() -> None:
    one = running(1)
    one.add(Row(10, 100, {"loss": 3.0}), 2.0)
    one.add(Row(100, 100, {"loss": 3.0}), 20.0)
    before = mean_seconds(RunIndex.of([trial(0, "done", 40), trial(1)]), [one])
    after = mean_seconds(RunIndex.of([trial(0, "done", 40), trial(1, "done", 20)]), [])
    assert before == after == 30


def test_workers_share_what_is_left() -> None:
    done = [trial(number, "done", 60.0) for number in range(4)]
    here, there = running(4), trial(5)
    here.add(Row(10, 100, {"loss": 3.0}), 6.0)
    here.add(Row(50, 100, {"loss": 3.0}), 30.0)
    runs = RunIndex.of([*done, trial(4), there])
    # 30 seconds here, 30 of the run elsewhere, and six runs of a minute, two at a time
    assert seconds_left(runs, [here], 6, 30) == (30 + 30 + 6 * 60) / 2
    assert seconds_left(runs, [here], 0, 30) == 30
    assert seconds_left(runs, [here], float("inf"), 30) is None  # without a run_cap
    assert seconds_left(RunIndex.of(done), [], 6, 30) is None  # nothing runs
    assert seconds_left(RunIndex.of([trial(4)]), [running(4)], 6, 30) is None  # nothing tells
    assert done_share(runs, {4: here}, 12, 30) == pytest.approx(4.5 / 12)
    assert done_share(RunIndex(), {}, 0, 0) == 1.0
