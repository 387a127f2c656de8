"""Steering through the store: what a person asks for is done once, whoever works."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from instant_trials import instant_engine

from fundamentallm.status import RunStatus
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.base import Grid, key_of
from fundamentallm.sweep.search.choose import choose_search
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store import steering
from fundamentallm.sweep.store.definition import SweepDefinition
from fundamentallm.sweep.store.run_store import RunStore
from fundamentallm.sweep.store.sweep_folder import SweepFolder

TEXT = """program: mine.py
method: {method}
{cap}
metric: {{name: val_loss}}
parameters:
  rate: {{values: [0.001, 0.003, 0.01, 0.03]}}
  size: {{values: [1, 2, 3]}}
"""


def defined(method: str, cap: str = "") -> SweepDefinition:
    sweep = parse_sweep(TEXT.format(method=method, cap=cap), "s.yaml")
    return SweepDefinition(SearchSpace(sweep, {}, is_ours=False), "cpu", 0, "auto", 60.0)


CLAIM: dict[str, Any] = {
    "next_values": lambda number, runs: {
        "rate": (0.001, 0.003, 0.01, 0.03)[number // 3],
        "size": number % 3 + 1,
    },
    "retries": 0,
    "parameters": defined("grid").sweep.parameters,
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    with closing(opened(tmp_path)) as found:
        yield found


def opened(folder: Path) -> RunStore:
    return RunStore(f"sqlite:///{folder}/study.db", "s", folder, lease=60, goal="minimize")


def work(store: RunStore, definition: SweepDefinition, count: int | None = None) -> None:
    search: Any = choose_search(definition.space, seed=0).search
    instant_engine(store, definition.sweep, search=search, count=count).run(lambda: "")


@pytest.mark.parametrize("method", ["grid", "random", "bayes"])
def test_an_enqueued_configuration_is_tried_next_and_every_other_once(
    store: RunStore, method: str
) -> None:
    definition = defined(method, "" if method == "grid" else "run_cap: 12")
    work(store, definition, count=2)
    taken = [key_of(run.values) for run in store.runs()]
    picked = [v for v in Grid(definition.sweep.parameters) if key_of(v) not in taken][-2:]
    for values in picked:
        enqueued = steering.enqueue(store, definition, {k: str(v) for k, v in values.items()})
        assert enqueued.is_new
        assert enqueued.run.last.status == "waiting"
    again = steering.enqueue(store, definition, picked[0])
    assert (again.is_new, again.run.number) == (False, 2)
    work(store, definition, count=1)
    assert [run.last.status for run in store.runs()] == ["done", "done", "done", "waiting"]
    work(store, definition)
    runs = store.runs()
    assert [runs[2].values, runs[3].values] == picked
    assert [run.number for run in runs] == list(range(12))
    assert {run.last.status for run in runs} == {"done"}
    assert len({key_of(run.values) for run in runs}) == 12


def test_an_enqueued_run_counts_for_run_cap(store: RunStore) -> None:
    definition = defined("random", "run_cap: 3")
    work(store, definition, count=2)
    left = [v for v in Grid(definition.sweep.parameters) if store.runs().with_values(v) is None]
    steering.enqueue(store, definition, left[0])
    with pytest.raises(SweepError, match="all 3 runs of its run_cap; raise run_cap"):
        steering.enqueue(store, definition, left[1])
    work(store, definition)
    assert [run.last.status for run in store.runs()] == ["done"] * 3


def test_two_workers_do_not_start_an_enqueued_run_twice(store: RunStore, tmp_path: Path) -> None:
    definition = defined("grid")
    steering.enqueue(store, definition, {"rate": 0.03, "size": 3})
    claims = {**CLAIM, "next_values": lambda number, runs: None}
    with closing(opened(tmp_path)) as other:
        other.runs()  # both have seen it waiting
        run = store.claim(**claims)
        assert run is not None
        assert run.values == {"rate": 0.03, "size": 3}
        assert other.claim(**claims) is None


def test_a_run_that_waits_can_be_stopped_before_it_starts(store: RunStore, tmp_path: Path) -> None:
    definition = defined("grid")
    run = steering.enqueue(store, definition, {"rate": 0.03, "size": 3}).run
    assert steering.stop(store, run)
    work(store, definition)
    stopped, *others = store.runs()
    assert (stopped.last.status, stopped.last.score, stopped.last.note) == ("stopped", None, "hand")
    assert [len(each.trials) for each in (stopped, *others)] == [1] * 12
    assert SweepFolder(tmp_path).run(0).read_summary()["stopped_by"] == "hand"


@pytest.mark.parametrize("end", ["lost", "interrupted", "died"])
def test_a_request_outlives_the_worker_that_did_not_see_it(
    store: RunStore, tmp_path: Path, end: str
) -> None:
    """The run ends with the score that it had, and is not run again."""
    with closing(opened(tmp_path)) as gone:
        run = gone.claim(**CLAIM)
        assert run is not None
        gone.report(run.last.id, {1: 3.0, 2: 2.0, 3: 2.5})
        assert steering.stop(store, run)
        if end == "lost":
            gone.worker_lock.release()
        else:
            gone.finish(run.last.id, RunStatus(end), score=None, seconds=1, note="SIGINT")
        for _ in range(2):
            work(store, defined("grid"))
    stopped = store.runs()[0]
    assert [trial.status for trial in stopped.trials] == [end, "stopped"]
    assert (stopped.last.score, stopped.last.note) == (2.0, "hand")
    assert SweepFolder(tmp_path).run(0).has_ended()


def test_only_runs_in_progress_can_be_stopped(store: RunStore) -> None:
    run = store.claim(**CLAIM)
    assert run is not None
    store.finish(run.last.id, RunStatus.DONE, score=1.0, seconds=1, note="")
    assert not steering.stop(store, run)
    assert not store.runs()[0].last.stop_requested


def test_a_run_is_found_by_number_folder_and_path(store: RunStore, tmp_path: Path) -> None:
    for _ in range(12):
        store.claim(**CLAIM)
    folder = SweepFolder(tmp_path)
    for name in ("12", "012", "run-0012", f"{tmp_path}/run-0012", f"{tmp_path}/run-0012/"):
        assert steering.find_run(store, folder, name).number == 11
    for name in ("0", "13", "run-0013", "best", "../run-0012", "", "run-00120", "1/2"):
        with pytest.raises(SweepError, match=r"no such run; it has 12 runs"):
            steering.find_run(store, folder, name)


def test_a_paused_sweep_hands_out_no_run_of_any_kind(store: RunStore) -> None:
    definition = defined("grid")
    first = store.claim(**CLAIM)
    assert first is not None
    store.finish(first.last.id, RunStatus.INTERRUPTED, score=None, seconds=1, note="SIGINT")
    steering.enqueue(store, definition, {"rate": 0.03, "size": 3})
    steering.pause(store)
    assert store.claim(**CLAIM) is None
    assert steering.resume(store)
    assert not steering.resume(store)
    work(store, definition)
    assert {run.last.status for run in store.runs()} == {"done"}
    assert len(store.runs()) == 12


def test_a_worker_waits_while_the_sweep_is_paused(store: RunStore, tmp_path: Path) -> None:
    definition = defined("grid")
    work(store, definition, count=3)
    steering.pause(store)
    engine = instant_engine(store, definition.sweep)
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        if "paused" in line:
            assert len(store.runs()) == 3
            with closing(opened(tmp_path)) as other:
                steering.resume(other)

    engine.observer.notify = note
    engine.run(lambda: "")
    paused = f"the sweep is paused: no new run starts; go on with: fundamentallm resume {tmp_path}"
    assert notes == [paused, "the sweep is resumed"]
    assert len(store.runs()) == 12


def test_a_paused_worker_leaves_when_all_is_done_or_it_is_asked_to(store: RunStore) -> None:
    definition = defined("grid")
    steering.pause(store)
    asked = iter([""] * 9)
    assert instant_engine(store, definition.sweep).run(lambda: next(asked, "SIGINT")) == "SIGINT"
    assert len(store.runs()) == 0
    steering.resume(store)
    work(store, definition)
    steering.pause(store)
    work(store, definition)
