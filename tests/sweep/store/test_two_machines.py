"""One sweep on two machines, played by two processes, over a real PostgreSQL server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from conftest import TEXT, Run
from postgres import postgres
from tiny_sweep import FLAGS, grid, kill, processes, start, summaries, wait_for

from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.store.run_store import RunStore

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


def attempts(url: str, name: str) -> list[optuna.trial.FrozenTrial]:
    storage = optuna.storages.RDBStorage(url.replace("postgresql:", "postgresql+psycopg:"))
    try:
        study = optuna.load_study(study_name=name, storage=storage)
        return study.get_trials(deepcopy=False)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def machine(tmp_path: Path, name: str) -> Path:
    """A folder of its own, with the text and nothing else of the other's."""
    place = tmp_path / name
    place.mkdir()
    (place / "cats.txt").write_text(TEXT)
    return place


@pytest.mark.nightly
def test_a_killed_machine_s_run_is_taken_over(tmp_path: Path, server: str, run: Run) -> None:
    one, two = machine(tmp_path, "one"), machine(tmp_path, "two")
    (one / "taken.yaml").write_text(grid(rates=2, seeds=1, steps=1200, every=50))
    environment = {"FUNDAMENTALLM_STORAGE": server, "FUNDAMENTALLM_LEASE": "5"}
    command = ("sweep", "taken.yaml", "cats.txt", "--workers", 1, "--", *FLAGS)
    first = start(one, *command, **environment)
    wait_for((one / "runs/taken/run-0001/last.pt").exists)
    joined = ("agent", "runs/taken", "--data", "cats.txt", "--workers", 1)
    second = start(two, *joined, FUNDAMENTALLM_STORAGE=server)
    wait_for((two / "runs/taken/run-0002/metrics.jsonl").exists)
    for pid in {first.pid, *processes(str(one))}:
        kill(pid)
    first.communicate()
    said = second.communicate(timeout=200)[0]
    assert second.returncode == 0, said
    assert "run 1 restarts: its checkpoint is not on this machine" in said
    found = attempts(server, "taken")
    complete = [trial for trial in found if trial.state.name == "COMPLETE"]
    assert sorted(trial.user_attrs["run"] for trial in complete) == [0, 1]
    assert len(found) == 3
    assert {each["status"] for each in summaries(two / "runs/taken").values()} == {"done"}
    secret = server.split(":")[2].split("@")[0]
    assert secret not in said
    stored = (one / "runs/taken/storage.txt").read_text()
    assert secret not in stored
    assert not any(secret in path.read_text(errors="replace") for path in one.rglob("*.*ml"))


def test_two_machines_share_a_grid_without_a_point_twice(
    tmp_path: Path, server: str, run: Run
) -> None:
    one, two = machine(tmp_path, "one"), machine(tmp_path, "two")
    (one / "shared.yaml").write_text(grid(rates=6, seeds=4, steps=30, every=10))
    environment = {"FUNDAMENTALLM_STORAGE": server}
    command = ("sweep", "shared.yaml", "cats.txt", "--workers", 2, "--", *FLAGS)
    workers = [start(one, *command, **environment)]
    wait_for((one / "runs/shared/sweep.yaml").exists)
    joined = ("agent", "runs/shared", "--data", "cats.txt", "--workers", 2)
    workers.append(start(two, *joined, **environment))
    for worker in workers:
        said = worker.communicate(timeout=200)[0]
        assert worker.returncode == 0, said
    found = attempts(server, "shared")
    assert sorted(trial.user_attrs["run"] for trial in found) == list(range(24))
    here, there = (summaries(place / "runs/shared") for place in (one, two))
    assert here
    assert there
    assert not set(here) & set(there)
    assert len(here) + len(there) == 24
    told = subprocess.run(
        [sys.executable, "-m", "fundamentallm", "compare", "runs/shared", "--json"],
        cwd=one, env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    scores = json.loads(told.stdout)["val_loss"]
    assert len(scores) == 24
    assert all(isinstance(score, float) for score in scores.values())
    assert f"{len(there)} of 24 runs ended on other machines" in told.stderr
    alone = run("report", one / "runs/shared")  # nobody is asked whom only the folder names
    assert alone.returncode == 0
    assert "set FUNDAMENTALLM_STORAGE" in alone.stderr


def test_the_name_of_a_sweep_is_not_taken_twice(tmp_path: Path, server: str, run: Run) -> None:
    one, two = machine(tmp_path, "one"), machine(tmp_path, "two")
    for place in (one, two):
        (place / "named.yaml").write_text(grid(1, 1, 2, 1))
    command = ("sweep", "named.yaml", "cats.txt", "--", *FLAGS)
    first = start(one, *command, FUNDAMENTALLM_STORAGE=server)
    assert "done" in first.communicate(timeout=100)[0]
    second = start(two, *command, FUNDAMENTALLM_STORAGE=server)
    assert "created elsewhere; join it with" in second.communicate(timeout=100)[0]
    assert second.returncode == 2
    third = start(two, "agent", "runs/other", FUNDAMENTALLM_STORAGE=server)
    assert "has no sweep other" in third.communicate(timeout=100)[0]
    (two / "cats.txt").write_text("other")
    fourth = start(two, "agent", "runs/named", "--data", "cats.txt", FUNDAMENTALLM_STORAGE=server)
    assert "is not the text of this sweep" in fourth.communicate(timeout=100)[0]


def test_the_lock_is_let_go_of_when_its_holder_dies(tmp_path: Path, server: str) -> None:
    sweep = parse_sweep("program: train.py\nmethod: grid\nparameters: {x: {value: 1}}\n", "s")

    def opened() -> RunStore:
        return RunStore(server, "locks", tmp_path, lease=60, goal="minimize")

    with closing(opened()) as one, closing(opened()) as two:
        holding = os.fork()
        if holding == 0:
            inherited = opened()
            with inherited.database.lock("locks"):
                (tmp_path / "held").touch()
                threading.Event().wait()
        wait_for((tmp_path / "held").exists)
        os.kill(holding, signal.SIGKILL)
        os.waitpid(holding, 0)
        for store in (one, two):
            claimed = store.claim(
                next_values=lambda number, runs: {"x": 1},
                retries=0,
                parameters=sweep.parameters,
            )
            assert claimed is not None
        assert [each.number for each in one.runs()] == [0, 1]


def test_a_lock_that_was_lost_hands_nothing_out_twice(tmp_path: Path, server: str) -> None:
    """Choosing values takes seconds; meanwhile the server may drop the lock's connection."""
    sweep = parse_sweep(grid(rates=2, seeds=1), "s.yaml")
    values = [{p.name: p.distribution.quantile(0.1) for p in sweep.parameters} for _ in range(2)]
    stores = [RunStore(server, "lost-lock", tmp_path, lease=60, goal="minimize") for _ in range(2)]
    dropped: list[int] = []

    def drop(number: int, runs: Sequence[Run]) -> Any:
        if not dropped:
            engine = sqlalchemy.create_engine(stores[0].database.url)
            with engine.connect() as connection:
                held = "SELECT pid FROM pg_locks WHERE locktype = 'advisory'"
                dropped.extend(connection.execute(sqlalchemy.text(held)).scalars())
                for pid in dropped:
                    stop = sqlalchemy.text("SELECT pg_terminate_backend(:pid)")
                    connection.execute(stop, {"pid": pid})
            engine.dispose()
            claimed.append(claim(stores[1], lambda number, runs: values[number]))
        return values[number]

    def claim(store: RunStore, choose: Any) -> int:
        found = store.claim(next_values=choose, retries=0, parameters=sweep.parameters)
        assert found is not None
        return found.number

    claimed: list[int] = []
    with closing(stores[0]), closing(stores[1]):
        stores[0].database.timeout = 60
        claimed.append(claim(stores[0], drop))
        assert len(dropped) == 1
        assert claimed == [0, 1]
        assert [run.number for run in stores[0].runs()] == [0, 1]
