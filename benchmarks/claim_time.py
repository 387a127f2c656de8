"""Milliseconds of a worker's own work per run of a sweep, by the number of finished runs.

    python benchmarks/claim_time.py [URL]

URL is a PostgreSQL database; the default is SQLite. The study is filled with finished trials of
nine logged values each. A claim is timed with two other runs in progress, without the choice of
values. A whole run is a claim with random values, nine rows that hyperband judges, its end, and the
update of the view. Workers with different numbers of finished runs take turns, so that load from
outside slows all alike. Also prints the time of a bayes suggestion and the memory per finished run.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
import tracemalloc
import uuid
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from instant_trials import EVALUATIONS, instant_engine, loss, write_end
from optuna.trial import TrialState

from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.choose import choose_search
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.optuna_tables import (
    ATTRIBUTES,
    SCORES,
    STEPS,
    TRIALS,
    stored_score,
    stored_step,
)
from fundamentallm.sweep.store.records import RunIndex, lazy_past_runs
from fundamentallm.sweep.store.run_store import RunStore

FINISHED = (300, 1_000, 3_000, 10_000)
ROUNDS = 40
TEXT = """program: train.py
method: {method}
metric: {{name: val_loss, target: 0.1}}
early_terminate: {{type: hyperband, min_iter: 1, eta: 3}}
parameters:
  rate: {{distribution: log_uniform_values, min: 0.001, max: 0.01}}
  size: {{min: 1, max: 9}}
"""
SWEEP = parse_sweep(TEXT.format(method="random"), "s.yaml")
BAYES = parse_sweep(TEXT.format(method="bayes"), "s.yaml")


def values_of(number: int) -> dict[str, Any]:
    """Return values that differ between runs."""
    return {"rate": round(0.001 + number * 1e-7, 9), "size": 1 + number % 9}


def fill(store: RunStore, count: int) -> None:
    """Write finished runs as a sweep would, in a few large transactions."""
    for number in range(count):
        write_end(store.held_folder.path / f"run-{number + 1:04}")
    with store.storage.engine.begin() as connection:
        rows = [
            {"number": n, "study_id": store.study_id, "state": TrialState.COMPLETE}
            for n in range(count)
        ]
        connection.execute(TRIALS.insert(), rows)
        query = TRIALS.select().where(TRIALS.c.study_id == store.study_id)
        ids = {row.number: row.trial_id for row in connection.execute(query)}
        attributes: list[dict[str, Any]] = []
        logged: list[dict[str, Any]] = []
        scores: list[dict[str, Any]] = []
        for number, trial in ids.items():
            values = values_of(number)
            history = {step: loss(values, step) for step in range(1, EVALUATIONS + 1)}
            score = min(history.values())
            result = {"status": "done", "score": score, "seconds": 1.0, "note": "", "guess": None}
            content_by_key = {"run": number, "values": values, "owner": "h:1:x", "result": result}
            attributes += [
                {"trial_id": trial, "key": key, "value_json": json.dumps(content)}
                for key, content in content_by_key.items()
            ]
            logged += [{"trial_id": trial} | stored_step(*each) for each in history.items()]
            scores.append({"trial_id": trial} | stored_score(score))
        connection.execute(ATTRIBUTES.insert(), attributes)
        connection.execute(STEPS.insert(), logged)
        connection.execute(SCORES.insert(), scores)


def milliseconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long `work` takes, and its result."""
    start = time.perf_counter()
    result = work()
    return 1000 * (time.perf_counter() - start), result


class Worker:
    """Timed worker of a sweep with many finished runs."""

    def __init__(self, url: str, folder: Path, count: int) -> None:
        """Fill the study and claim two runs that stay in progress; `other` times whole runs."""
        folder.mkdir()
        url = url or f"sqlite:///{folder}/study.db"
        name = f"claim-{count}-{uuid.uuid4().hex[:8]}"
        self.store, self.other = (
            RunStore(url, name, folder, lease=600, goal="minimize") for _ in range(2)
        )
        fill(self.store, count)
        for _ in range(2):
            self.claim()
        self.engine = instant_engine(self.other, SWEEP)
        self.engine.run(lambda: "now")  # reads the stored runs
        self.claims: list[float] = []
        self.runs: list[float] = []

    def claim(self) -> Any:
        """Claim a run."""
        return self.store.claim(
            next_values=lambda number, runs: values_of(number),
            retries=0,
            parameters=SWEEP.parameters,
        )

    def turn(self) -> None:
        """Time a claim and a whole run."""
        elapsed, run = milliseconds(self.claim)
        self.claims.append(elapsed)
        self.store.finish(run.last.id, "done", score=1.0, seconds=1, note="")
        self.runs.append(milliseconds(self.whole_run)[0])

    def whole_run(self) -> None:
        """Do what the engine does for a run, from the claim to the read after its end."""
        self.engine._start_runs()
        while self.engine.running:
            self.engine._handle_messages()
        self.engine.observer.update(self.other.runs(), None)


def main() -> None:
    """Print a line for each number of finished runs."""
    with tempfile.TemporaryDirectory() as name:
        url = sys.argv[1] if len(sys.argv) > 1 else ""
        workers = {count: Worker(url, Path(name) / str(count), count) for count in FINISHED}
        for _ in range(ROUNDS + 2):
            for worker in workers.values():
                worker.turn()
        for count, worker in workers.items():
            claim, run = (statistics.median(all_[2:]) for all_ in (worker.claims, worker.runs))
            print(f"{count:>6,} finished runs: claim {claim:6.1f} ms, whole run {run:6.1f} ms")
        largest = workers[max(FINISHED)]
        search = choose_search(SearchSpace(BAYES, {}), seed=0).search
        for count, worker in workers.items():
            index = worker.other.index
            past = lazy_past_runs(index, BAYES.ranks_by)
            elapsed, _ = milliseconds(partial(search.suggest, len(index), past))
            print(f"{count:>6,} finished runs: bayes {elapsed:8.1f} ms a suggestion")
        tracemalloc.start()
        largest.other.trials.__init__(largest.other.storage, largest.other.study_id)
        largest.other.index = RunIndex()
        runs = largest.other.runs()
        memory = tracemalloc.get_traced_memory()[0]
        print(f"memory: {memory / len(runs) / 1000:.1f} kB a finished run")
        for worker in workers.values():
            with closing(worker.store), closing(worker.other):
                pass


if __name__ == "__main__":
    main()
