"""Work for a run does not grow with the runs before it; results stay the same."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import sqlalchemy
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from claim_time import SWEEP, fill
from instant_trials import instant_engine

from fundamentallm.status import FAULTS, FINISHED, RETRYABLE
from fundamentallm.sweep.file.hyperband import Hyperband, Reached
from fundamentallm.sweep.file.sweep_file import Metric, parse_sweep
from fundamentallm.sweep.search.base import PastRun, Search, Values, key_of
from fundamentallm.sweep.search.choose import choose_search
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.records import (
    Run,
    RunIndex,
    Trial,
    lazy_past_runs,
    past_runs,
    target_is_reached,
)
from fundamentallm.sweep.store.run_store import RunStore

TEXT = """program: train.py
method: {method}
run_cap: {cap}
metric: {{name: val_loss}}
parameters:
  learning_rate: {rates}
  num_layers: {{values: [1, 2, 3, 4, 6, 8]}}
  dropout: {{values: [0.0, 0.05, 0.1]}}
early_terminate: {{type: hyperband, min_iter: 1, eta: 3}}
"""
NEVER_STOPS = parse_sweep(
    TEXT.format(method="random", rates="{min: 0.001, max: 0.01}", cap=1000).replace(
        "min_iter: 1, eta: 3", "max_iter: 9, s: 2, eta: 1.0001"
    ),
    "s.yaml",
)
RANGE = "{distribution: log_uniform_values, min: 0.0001, max: 0.1}"
LIST = "{values: [0.0003, 0.001, 0.003, 0.01, 0.03]}"


def opened(folder: Path) -> RunStore:
    return RunStore(f"sqlite:///{folder}/study.db", "many", folder, lease=600, goal="minimize")


def work(runs: int, finished: int) -> tuple[int, int]:
    """Steps of Python and SQLite that an engine takes to start and to do `runs` runs."""
    steps = {"python": 0, "sqlite": 0}

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if "fundamentallm" not in frame.f_code.co_filename:
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        steps["python"] += event == "opcode"
        return trace

    def count() -> None:
        steps["sqlite"] += 1

    with tempfile.TemporaryDirectory() as name, closing(opened(Path(name))) as store:
        fill(store, finished)
        engine = instant_engine(store, NEVER_STOPS, count=runs)
        pool = store.storage.engine
        sqlalchemy.event.listen(
            pool, "checkout", lambda connection, *_: connection.set_progress_handler(count, 10)
        )
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            engine.run(lambda: "")
        finally:
            sys.settrace(before)
        assert len(store.runs()) == finished + runs
    return steps["python"], steps["sqlite"]


def test_no_run_takes_more_work_than_those_before_it() -> None:
    (python, sqlite), (python_of_many, sqlite_of_many) = (
        [more - few for more, few in zip(work(7, count), work(2, count), strict=True)]
        for count in (20, 200)
    )
    assert python_of_many < 1.1 * python
    assert sqlite_of_many < 1.1 * sqlite


@pytest.mark.parametrize("since", ["interrupted", "failed"])
def test_the_folder_of_a_lost_run_is_replaced_whatever_came_after(
    tmp_path: Path, since: str
) -> None:
    """The worker that lost it may still write there, even if the next trial was elsewhere."""
    options: Any = {
        "next_values": lambda number, runs: {"rate": 0.002, "size": 4},
        "parameters": SWEEP.parameters,
        "retries": 1,
    }
    with closing(opened(tmp_path)) as store, closing(opened(tmp_path)) as lost:
        assert lost.claim(**options) is not None
        lost.worker_lock.release()
        run = store.claim(**options)
        assert run is not None
        assert [trial.status for trial in run.trials] == ["lost", "running"]
        store.finish(run.last.id, since, score=None, seconds=1, note="")
        (tmp_path / "run-0001").mkdir()
        before = (tmp_path / "run-0001").stat().st_ino
        engine = instant_engine(store, SWEEP, retries=1, count=1)
        engine.run(lambda: "")
        assert store.runs()[0].last.status == "done"
        assert (tmp_path / "run-0001").stat().st_ino != before


class CheckedSearch:
    """Search that must suggest the same from all runs and from those that it asks for."""

    def __init__(self, search: Search, store: RunStore, metric: Metric) -> None:
        self.search, self.store, self.metric = search, store, metric

    @property
    def size(self) -> int | None:
        """Size of the search."""
        return self.search.size

    def suggest(self, k: int, tried_here: Sequence[PastRun]) -> Values | None:
        """Suggest values, and compare."""
        found = self.search.suggest(k, tried_here)
        assert found == self.search.suggest(k, past_runs(list(self.store.index), self.metric))
        return found


@dataclass(frozen=True)
class CheckedHyperband(Hyperband):
    """Rule that checks that it knows every run."""

    store: Any = None

    def stops(self, history: Sequence[float], reached: Reached) -> bool:
        """Return the rule's answer."""
        histories = [run.history for run in self.store.index]
        for band, values in reached.values.items():
            assert values == sorted(each[band - 1] for each in histories if len(each) >= band)
        return super().stops(history, reached)


# What the engine did when it read every run for every claim and row; for bayes that depends on
# Optuna's version, so it is compared with a search that is told of every run alone.
@pytest.mark.parametrize(
    ("method", "rates", "cap", "runs", "stopped", "digest"),
    [
        ("grid", LIST, 40, 40, 25, "333eb2f9cc1928a8"),
        ("random", RANGE, 40, 40, 32, "b79401bd7832499a"),
        ("random", LIST, 200, 90, 79, "df3fa5ecfb0a6cff"),  # until no point is left
        ("bayes", RANGE, 24, 24, None, ""),
        ("bayes", LIST, 24, 24, None, ""),
    ],
)
def test_what_is_proposed_and_stopped_stays_the_same(
    tmp_path: Path, method: str, rates: str, cap: int, runs: int, stopped: int | None, digest: str
) -> None:
    sweep = parse_sweep(TEXT.format(method=method, rates=rates, cap=cap), "s.yaml")
    with closing(opened(tmp_path)) as store:
        assert sweep.hyperband is not None
        rule = CheckedHyperband(**vars(sweep.hyperband), store=store)
        sweep = replace(sweep, hyperband=rule)
        chosen = choose_search(SearchSpace(sweep, {}), seed=7).search
        search = CheckedSearch(chosen, store, sweep.ranks_by)
        instant_engine(store, sweep, search=search).run(lambda: "")
        found = [
            [[run.values[name] for name in sorted(run.values)], run.last.status, len(run.history)]
            for run in store.runs()
        ]
    assert len(found) == runs
    if digest:
        assert sum(status == "stopped" for _, status, _ in found) == stopped
        assert hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16] == digest


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
        done = [run.last.seconds for run in every if run.last.status == "done"]
        assert runs.seconds == pytest.approx(sum(done), abs=1e-9)
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
