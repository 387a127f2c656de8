"""Engine: constant work per run, the same results, and what it does when runs fail."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
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
from conftest import ROOT, Run
from tiny_sweep import FLAGS, grid, start, summaries, wait_for

sys.path.insert(0, str(ROOT / "benchmarks"))
from claim_time import SWEEP, fill
from instant_trials import instant_engine

from fundamentallm.sweep.file.hyperband import Hyperband, Reached
from fundamentallm.sweep.file.sweep_file import Metric, parse_sweep
from fundamentallm.sweep.search.base import PastRun, Search, Values
from fundamentallm.sweep.search.choose import choose_search
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.records import past_runs
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


# Digests of what the engine did when it read every run for every claim and row. For bayes it
# depends on Optuna's version, so it is compared with a search that knows every run.
@pytest.mark.parametrize(
    ("method", "rates", "cap", "runs", "stopped", "digest"),
    [
        ("grid", LIST, 40, 40, 25, "333eb2f9cc1928a8"),
        ("random", RANGE, 40, 40, 32, "b79401bd7832499a"),
        ("random", LIST, 200, 90, 79, "df3fa5ecfb0a6cff"),  # until no configuration is left
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


def test_a_checkpoint_that_cannot_be_read_now_is_kept(
    run: Run, tmp_path: Path, text_file: Path, ordinary_user: list[str]
) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=1, seeds=1, steps=400, every=50))
    words = ("sweep", "t.yaml", str(text_file), "--", *FLAGS)
    process = start(tmp_path, *words)
    last = tmp_path / "runs/t/run-0001/last.pt"
    wait_for(last.exists)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    whole = last.read_bytes()
    last.chmod(0)
    command = [*ordinary_user, sys.executable, "-m", "fundamentallm", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "last.pt: Permission denied" in done.stderr
    last.chmod(0o644)
    assert last.read_bytes() == whole
    done = run("agent", "runs/t", "--retries=1")
    assert done.returncode == 0, done.stderr
    assert "run 1 of 1 resumes" in done.stdout


def test_a_sweep_whose_runs_all_fail_ends(run: Run, tmp_path: Path, text_file: Path) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=4, seeds=3))
    done = run("sweep", "t.yaml", text_file, "--workers=1", "--", *FLAGS, "--device=mps")
    assert done.returncode == 1
    assert "stopped by errors: all of the first 5 runs here failed; " in done.stderr
    assert len(summaries(tmp_path / "runs/t")) < 12  # one more may have started
