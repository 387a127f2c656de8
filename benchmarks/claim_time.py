"""Milliseconds that a worker takes to claim a run, by how many runs have finished.

    python benchmarks/claim_time.py [URL]

Without URL of a PostgreSQL database it is SQLite. Runs are filled in as finished trials, with five
logged values each; then CLAIMS runs are claimed and finished one by one, and the median is printed.
Two workers with as many finished runs take turns, so that a busy machine slows both.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna

from fundamentallm.sweep.ledger import Ledger
from fundamentallm.sweep.records import Run
from fundamentallm.sweep.spec import parse_sweep

FINISHED = (300, 1_000, 3_000, 10_000)
CLAIMS = 40
SWEEP = parse_sweep(
    "program: train.py\nmethod: random\nmetric: {name: val_loss}\nparameters:\n"
    "  rate: {distribution: log_uniform_values, min: 0.001, max: 0.01}\n"
    "  size: {min: 1, max: 9}\n",
    "s.yaml",
)
VALUES = {"rate": 0.002, "size": 4}
RESULT = {"status": "done", "score": 1.0, "seconds": 1.0, "note": "", "guess": None}


def fill(ledger: Ledger, count: int) -> None:
    """Write finished runs as a sweep would have left them, in a few large transactions."""
    from optuna.storages._rdb import models

    engine = ledger.storage.engine
    trial, attribute = models.TrialModel.__table__, models.TrialUserAttributeModel.__table__
    step, value = models.TrialIntermediateValueModel.__table__, models.TrialValueModel.__table__
    done = optuna.trial.TrialState.COMPLETE
    with engine.begin() as connection:
        rows = [{"number": n, "study_id": ledger.study_id, "state": done} for n in range(count)]
        connection.execute(trial.insert(), rows)
        query = trial.select().where(trial.c.study_id == ledger.study_id)
        ids = {row.number: row.trial_id for row in connection.execute(query)}
        attributes = [
            {"trial_id": ids[n], "key": key, "value_json": json.dumps(content)}
            for n in range(count)
            for key, content in {
                "run": n,
                "values": VALUES,
                "owner": "h:1:x",
                "result": RESULT,
            }.items()
        ]
        connection.execute(attribute.insert(), attributes)
        logged = [
            {"trial_id": each, "step": s, "intermediate_value": 1.0,
             "intermediate_value_type": "FINITE"}
            for each in ids.values() for s in range(5)
        ]  # fmt: skip
        connection.execute(step.insert(), logged)
        scores = [
            {"trial_id": each, "objective": 0, "value": 1.0, "value_type": "FINITE"}
            for each in ids.values()
        ]
        connection.execute(value.insert(), scores)


def choose(number: int, runs: Sequence[Run]) -> Any:
    """Values that take no time to choose: the search is measured elsewhere."""
    return VALUES


def main() -> None:
    """Print a line for each number of finished runs."""
    with tempfile.TemporaryDirectory() as name:
        ledgers: list[Ledger] = []
        times: dict[int, list[float]] = {count: [] for count in FINISHED}
        for count in FINISHED:
            folder = Path(name) / str(count)
            folder.mkdir()
            url = sys.argv[1] if len(sys.argv) > 1 else f"sqlite:///{folder}/study.db"
            study = f"claim-{count}-{uuid.uuid4().hex[:8]}"
            ledgers.append(Ledger(url, study, folder, lease=600, goal="minimize"))
            fill(ledgers[-1], count)
        for _ in range(CLAIMS):
            for count, ledger in zip(FINISHED, ledgers, strict=True):
                began = time.perf_counter()
                run = ledger.claim(
                    next_values=choose, again=lambda run: True, parameters=SWEEP.parameters
                )
                times[count].append(1000 * (time.perf_counter() - began))
                assert run is not None
                ledger.finish(run.last.id, "done", score=1.0, seconds=1, note="")
        for ledger in ledgers:
            with closing(ledger):
                pass
    for count, taken in times.items():
        print(f"{count:>6,} finished runs: {statistics.median(taken[1:]):6.1f} ms a claim")


if __name__ == "__main__":
    main()
