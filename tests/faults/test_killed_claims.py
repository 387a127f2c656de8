"""Workers are killed while they claim and finish runs; every run of the grid is done once."""

from __future__ import annotations

import mmap
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from postgres import postgres
from tiny_sweep import grid

from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.base import Grid, Values
from fundamentallm.sweep.store.records import RunIndex
from fundamentallm.sweep.store.run_store import RunStore, TrialLostError

pytestmark = pytest.mark.slow
SWEEP = parse_sweep(grid(rates=10, seeds=6), "s.yaml")
CONFIGURATIONS = list(Grid(SWEEP.parameters))
WORKERS, KILLS, LEASE = 3, 20, 3.0


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, list[Path]]]:
    """Storage URL, and a folder per worker; on PostgreSQL each worker has a machine of its own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/study.db", [tmp_path] * WORKERS
        return
    folders = [tmp_path / f"machine-{number}" for number in range(WORKERS)]
    for folder in folders:
        folder.mkdir()
    with postgres() as url:
        yield url, folders


def work(url: str, folder: Path, log: Path, seed: int, kills: mmap.mmap) -> None:
    """Claim and finish runs until none is left; log the finished ones.

    Every kill releases two more runs, so that even a fast machine gets killed often enough.
    """
    rng = random.Random(seed)
    with closing(RunStore(url, "killed", folder, lease=LEASE, goal="minimize", wait=60)) as store:

        def beat() -> None:
            while True:
                time.sleep(LEASE / 6)
                with suppress(Exception):
                    store.beat(sorted(store.claimed.copy()))

        def next_values(number: int, runs: RunIndex) -> Values | None:
            available = len(CONFIGURATIONS) - 2 * (KILLS - kills[0])
            return CONFIGURATIONS[number] if number < available else None

        threading.Thread(target=beat, daemon=True).start()
        while True:
            run = store.claim(
                next_values=next_values,
                retries=0,
                parameters=SWEEP.parameters,
            )
            if run is None:
                runs = store.runs()
                if len(runs) == len(CONFIGURATIONS) and all(each.is_finished for each in runs):
                    return
                time.sleep(0.05)
                continue
            if seed == 1:  # the first victim: the kill hits a claimed run
                kills[1] = 1
                signal.pause()
            try:
                store.report(run.last.id, {1: 0.5})
                time.sleep(rng.uniform(0, 0.05))
                store.finish(run.last.id, "done", score=0.5, seconds=0, note="")
            except TrialLostError:
                continue
            with log.open("a") as file:
                file.write(f"{run.number}\n")


def start(*arguments: Any) -> int:
    """Fork a process that calls `work`."""
    if pid := os.fork():
        return pid
    try:
        work(*arguments)
        os._exit(0)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)


def test_three_workers_and_a_killer(storage: tuple[str, list[Path]], tmp_path: Path) -> None:
    url, folders = storage
    log, rng, started = tmp_path / "finished.txt", random.Random(1), 0
    kills = mmap.mmap(-1, 2)  # number of kills, whether the first may come; shared
    with closing(RunStore(url, "killed", folders[0], lease=LEASE, goal="minimize")):
        pass  # create the study before any kill
    workers: dict[int, int] = {}  # process by slot
    free = set(range(WORKERS))
    while free or workers:
        for slot in sorted(free):
            started += 1
            workers[slot] = start(url, folders[slot], log, started, kills)
        free.clear()
        time.sleep(rng.uniform(0.05, 0.6))
        if not kills[1]:
            continue
        victim = rng.choice(sorted(workers)) if 0 < kills[0] < KILLS else None
        if not kills[0]:
            victim = 0
        if victim is not None:
            os.kill(
                workers[victim], signal.SIGKILL
            )  # an ended process stays a zombie until waited for
        for slot, pid in list(workers.items()):
            ended, status = os.waitpid(pid, 0 if slot == victim else os.WNOHANG)
            if not ended:
                continue
            del workers[slot]
            if os.WIFSIGNALED(status):
                kills[0] += 1
                free.add(slot)
            else:
                assert os.WEXITSTATUS(status) == 0
    assert kills[0] == KILLS
    with closing(RunStore(url, "killed", folders[0], lease=LEASE, goal="minimize")) as store:
        runs = store.runs()
    assert [run.number for run in runs] == list(range(len(CONFIGURATIONS)))
    assert [run.values for run in runs] == CONFIGURATIONS
    for run in runs:
        *others, last = [trial.status for trial in run.trials]
        assert last == "done"
        assert set(others) <= {"lost"}
    assert any(len(run.trials) > 1 for run in runs)  # a kill hit a claimed run
    finished = Counter(log.read_text().split())
    assert set(finished.values()) == {1}
