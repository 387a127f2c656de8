"""Trials, runs, and the index that keeps counts and rankings of all runs."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from fundamentallm.status import FAULTS, FINISHED, RETRYABLE
from fundamentallm.sweep.file.hyperband import Hyperband, Reached
from fundamentallm.sweep.file.sweep_file import Metric
from fundamentallm.sweep.search.base import key_of
from fundamentallm.sweep.store.records import (
    Run,
    RunIndex,
    Trial,
    lazy_past_runs,
    past_runs,
    reason_to_give_up,
    target_is_reached,
)


@pytest.mark.parametrize(
    ("statuses", "needed"),
    [(["failed"], 1), (["failed", "oom"], 2), (["died"] * 7, 3), (["died"], 0), (["lost"], 0)],
)
def test_the_number_of_retries_that_helps_is_known(statuses: list[str], needed: int) -> None:
    run = Run(0, tuple(Trial(i, 0, {}, each, "") for i, each in enumerate(statuses)))
    assert run.retries_needed == needed


def make_trial(run: int, status: str, score: float | None = None, *history: float) -> Trial:
    return Trial(run, run, {"x": run}, status, "me", score=score, history=history)


@pytest.mark.parametrize(
    ("impute", "while_running", "expected"),
    [
        ("worst", None, [(-3.0, False), (-1.0, False), (-2.0, True), (None, False)]),
        ("latest", "latest", [(-3.0, False), (-1.0, False), (-1.5, False), (-4.0, False)]),
        ("best", "best", [(-3.0, False), (-1.0, False), (-2.0, False), (-5.0, False)]),
        ("worst", "worst", [(-3.0, False), (-1.0, False), (-2.0, True), (-1.0, False)]),
    ],
)
def test_wandb_s_imputes(impute: str, while_running: str | None, expected: Any) -> None:
    metric = Metric("accuracy", "maximize", None, impute, while_running)
    trials = [make_trial(0, "done", 3.0, 1.0, 3.0), make_trial(1, "done", 1.0, 1.0)]
    trials += [make_trial(2, "diverged", 2.0, 2.0, 1.5), make_trial(3, "running", None, 5.0, 4.0)]
    found = past_runs([Run(each.run, (each,)) for each in trials], metric)
    assert [(each.score, each.failed) for each in found] == expected
    assert [each.running for each in found] == [False, False, False, True]


@pytest.mark.parametrize(
    ("goal", "target", "reached"),
    [
        ("minimize", None, False),
        ("minimize", 1.4, False),
        ("minimize", 1.5, True),  # by the run that goes on
        ("minimize", 1.8, True),
        ("maximize", 3.0, True),
        ("maximize", 3.1, False),
    ],
)
def test_a_target_is_reached_by_any_run(goal: str, target: float | None, reached: bool) -> None:
    trials = [
        Trial(1, 0, {}, "running", "a", history=(3.0, 1.5, 1.6)),
        Trial(2, 1, {}, "done", "b", score=1.7, history=(2.0, 1.7)),
        Trial(3, 2, {}, "failed", "b"),
    ]
    assert target_is_reached(RunIndex.of(trials), Metric("m", goal, target)) == reached


def test_what_an_earlier_attempt_reached_is_not_forgotten() -> None:
    """A run that goes on is the same run, before its first new value too."""
    before = Trial(1, 0, {}, "interrupted", "a", history=(3.0, 0.9))
    now = Trial(2, 0, {}, "running", "a")
    run = Run(0, (before, now))
    assert target_is_reached(RunIndex.of([before, now]), Metric("val_loss", target=1.0))
    assert run.history == (3.0, 0.9)
    assert Run(0, (before, replace(now, history=(2.0,)))).history == (2.0,)


def test_a_worker_whose_runs_all_fail_gives_up() -> None:
    assert reason_to_give_up(["failed"] * 5, 5) == "errors: all of the first 5 runs here failed"
    assert reason_to_give_up(["failed", "interrupted"] * 5, 5)
    assert not reason_to_give_up(["failed"] * 4, 5)
    for other in ("done", "stopped", "diverged", "impossible", "oom", "died", "hung"):
        assert not reason_to_give_up([*["failed"] * 3, other, *["failed"] * 5], 5)


def random_trials(dice: random.Random) -> list[Trial]:
    """Trials as a store reads them: started, growing, ended, retried; some out of order."""
    statuses = ("waiting", "running", *FINISHED, *RETRYABLE)
    found: list[Trial] = []
    for number in range(300):
        run = dice.randrange(1 + number // 3)
        history = tuple(round(dice.uniform(1, 3), 1) for _ in range(dice.randrange(6)))
        score = round(dice.uniform(1, 3), 1) if dice.random() < 0.8 else None
        last = Trial(number, run, {"x": run % 7}, "running", "me", seconds=dice.random())
        for length in range(len(history)):
            found.append(replace(last, history=history[:length]))
        ended = replace(last, status=dice.choice(statuses), score=score, history=history)
        found.append(ended)
    return found


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_what_is_kept_up_to_date_is_what_a_look_at_all_runs_would_find(goal: str) -> None:
    rule, runs = Hyperband((1, 2, 5)), RunIndex()
    reached = Reached(rule)
    runs.subscribe(
        lambda before, now: reached.change(before.history if before else (), now.history)
    )
    trials = random_trials(random.Random(3))
    for place, trial in enumerate(trials):
        runs.update([trial])
        if place % 50 and place < len(trials) - 1:
            continue
        last = {each.id: each for each in trials[: place + 1]}
        numbers = sorted({each.run for each in last.values()})
        every = [Run(n, tuple(a for a in last.values() if a.run == n)) for n in numbers]
        assert list(runs) == every
        ranked = [run for run in every if run.is_ranked]
        reach = [v for a in last.values() for v in (a.score, *a.history) if v is not None]
        for target in (0.5, 1.0, 1.1, 2.9, 3.0, 3.5):
            metric = Metric("m", goal, target)
            best = min(ranked, key=lambda run: metric.sign * (run.last.score or 0), default=None)
            assert runs.best(metric) == best
            is_there = any(metric.sign * value <= metric.sign * target for value in reach)
            assert target_is_reached(runs, metric) == is_there
        assert runs.statuses() == {
            status: count
            for status in ("waiting", "running", *FINISHED, *RETRYABLE)
            if (count := sum(run.last.status == status for run in every))
        }
        ended = [trial.seconds for run in every if run.is_finished for trial in run.trials]
        assert runs.seconds == pytest.approx(sum(ended), abs=1e-9)
        assert (
            runs.keys == lazy_past_runs(runs, metric).keys == {key_of(run.values) for run in every}
        )
        for retries in range(3):
            left = [run for run in every if run.last.status in ("interrupted", "lost")] or [
                run for run in every if run.last.status in FAULTS and run.retries_needed <= retries
            ]
            assert runs.next_to_retry(retries) == next(iter(left), None)
        for band, values in reached.values.items():
            has = [run.history[band - 1] for run in every if len(run.history) >= band]
            assert values == sorted(has)
