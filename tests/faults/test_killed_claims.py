"""Workers that are killed while they claim and finish runs: every point of a grid is done once."""

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
POINTS = list(Grid(SWEEP.parameters))
WORKERS, KILLS, LEASE = 3, 20, 3.0


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, list[Path]]]:
    """An address, and a folder for each worker: on PostgreSQL each is on a machine of its own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/study.db", [tmp_path] * WORKERS
        return
    folders = [tmp_path / f"machine-{number}" for number in range(WORKERS)]
    for folder in folders:
        folder.mkdir()
    with postgres() as url:
        yield url, folders


def work(url: str, folder: Path, log: Path, seed: int, kills: mmap.mmap) -> None:
    """Claim and finish runs until none is left; write down what was finished.

    With every kill there are two more to claim, so that no machine is too fast to be killed.
    """
    dice = random.Random(seed)
    with closing(RunStore(url, "killed", folder, lease=LEASE, goal="minimize", wait=60)) as store:

        def beat() -> None:
            while True:
                time.sleep(LEASE / 6)
                with suppress(Exception):
                    store.beat(sorted(store.claimed.copy()))

        def next_values(number: int, runs: RunIndex) -> Values | None:
            there = len(POINTS) - 2 * (KILLS - kills[0])
            return POINTS[number] if number < there else None

        threading.Thread(target=beat, daemon=True).start()
        while True:
            run = store.claim(
                next_values=next_values,
                retries=0,
                parameters=SWEEP.parameters,
            )
            if run is None:
                runs = store.runs()
                if len(runs) == len(POINTS) and all(each.is_finished for each in runs):
                    return
                time.sleep(0.05)
                continue
            if seed == 1:  # the first that is killed, so that a kill meets a claimed run
                kills[1] = 1
                signal.pause()
            try:
                store.report(run.last.id, {1: 0.5})
                time.sleep(dice.uniform(0, 0.05))
                store.finish(run.last.id, "done", score=0.5, seconds=0, note="")
            except TrialLostError:
                continue
            with log.open("a") as file:
                file.write(f"{run.number}\n")


def start(*arguments: Any) -> int:
    """Work in a process of its own, which has imported all that it needs."""
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
    log, dice, started = tmp_path / "finished.txt", random.Random(1), 0
    kills = mmap.mmap(-1, 2)  # how many, and whether the first may be; shared with every worker
    with closing(RunStore(url, "killed", folders[0], lease=LEASE, goal="minimize")):
        pass  # so that no kill meets a study that is being made
    workers: dict[int, int] = {}  # process by place
    free = set(range(WORKERS))
    while free or workers:
        for place in sorted(free):
            started += 1
            workers[place] = start(url, folders[place], log, started, kills)
        free.clear()
        time.sleep(dice.uniform(0.05, 0.6))
        if not kills[1]:
            continue
        victim = dice.choice(sorted(workers)) if 0 < kills[0] < KILLS else None
        if not kills[0]:
            victim = 0
        if victim is not None:
            os.kill(workers[victim], signal.SIGKILL)  # one that has ended is still to be waited for
        for place, pid in list(workers.items()):
            ended, status = os.waitpid(pid, 0 if place == victim else os.WNOHANG)
            if not ended:
                continue
            del workers[place]
            if os.WIFSIGNALED(status):
                kills[0] += 1
                free.add(place)
            else:
                assert os.WEXITSTATUS(status) == 0
    assert kills[0] == KILLS
    with closing(RunStore(url, "killed", folders[0], lease=LEASE, goal="minimize")) as store:
        runs = store.runs()
    assert [run.number for run in runs] == list(range(len(POINTS)))
    assert [run.values for run in runs] == POINTS
    for run in runs:
        *others, last = [attempt.status for attempt in run.trials]
        assert last == "done"
        assert set(others) <= {"lost"}
    assert any(len(run.trials) > 1 for run in runs)  # a kill met a run that was claimed
    finished = Counter(log.read_text().split())
    assert set(finished.values()) == {1}
