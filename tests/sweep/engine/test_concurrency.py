"""The number of runs at a time follows from what the first runs need."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_sweep import FLAGS, grid, start

from fundamentallm.machine.cores_and_memory import free_gb, own_memory_gb
from fundamentallm.sweep.engine import concurrency as module
from fundamentallm.sweep.engine.concurrency import ROWS_PER_TRIAL, Concurrency, Resources

ON_CPU = Resources(workers=4, threads=1, fixed=False)
ON_GPUS = Resources(workers=16, threads=1, gpus=("0", "1"), fixed=False)


def test_a_number_that_was_asked_for_is_kept() -> None:
    said: list[str] = []
    concurrency = Concurrency(Resources(workers=3, threads=1), said.append, free=0.0)
    concurrency.started(0)
    concurrency.row_logged(0, {"perf/tokens_per_second": 1.0}, lambda: 1.4)
    assert concurrency.size == 3
    assert not said


@pytest.mark.parametrize(("free", "size"), [(100.0, 4), (5.0, 3), (0.1, 1)])
def test_as_many_as_fit_into_memory(free: float, size: int) -> None:
    said: list[str] = []
    concurrency = Concurrency(ON_CPU, said.append, free=free)
    assert concurrency.size == 1
    concurrency.started(0)
    concurrency.row_logged(0, {}, lambda: 1.4)
    assert concurrency.size == size
    assert f"a run takes 1.4 GB of {free:.1f}" in said[0]
    assert (", not 4" in said[0]) == (size < 4)


def test_a_larger_run_makes_it_fewer() -> None:
    said: list[str] = []
    needs = iter([1.0, 1.1, 3.0])
    concurrency = Concurrency(ON_CPU, said.append, free=8.0)
    sizes: list[int] = []
    for slot in range(3):
        concurrency.started(slot)
        concurrency.row_logged(slot, {}, lambda: next(needs))
        sizes.append(concurrency.size)
    assert sizes == [4, 4, 2]
    assert len(said) == 2


@pytest.mark.parametrize("how", ["it ends", "it takes long"])
def test_a_first_run_without_a_row_holds_nobody_up(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    concurrency = Concurrency(ON_CPU, lambda line: None)
    concurrency.started(0)
    if how == "it ends":
        concurrency.ended(0)
    else:
        concurrency.check_first_row()
        assert concurrency.size == 1
        monkeypatch.setattr(module, "FIRST_ROW_SECONDS", -1.0)
        concurrency.check_first_row()
    assert concurrency.size == 4


def settle(total: Callable[[int], float]) -> tuple[Concurrency, list[str]]:
    """A concurrency on two GPUs, where `n` runs together make `total(n)` tokens a second."""
    said: list[str] = []
    concurrency = Concurrency(ON_GPUS, said.append)
    running = 0
    for _ in range(20):
        while running < concurrency.size:
            concurrency.started(running)
            running += 1
        for slot in range(running):
            for _ in range(ROWS_PER_TRIAL):
                speed = total(running) / running
                concurrency.row_logged(slot, {"perf/tokens_per_second": speed}, lambda: 0.0)
        while running > concurrency.size:
            running -= 1
            concurrency.ended(running)
    return concurrency, said


@pytest.mark.parametrize(
    ("best", "size"), [(1, 2), (2, 2), (6, 6), (16, 16), (50, 16)], ids=lambda n: str(n)
)
def test_gpus_get_more_while_all_together_gain(best: int, size: int) -> None:
    concurrency, said = settle(lambda running: 1000.0 * min(running, best))
    assert concurrency.size == size
    assert len(said) == 1
    assert said[0].startswith(f"{size} runs at a time; tokens per second")


def test_own_memory_leaves_out_what_is_shared() -> None:
    code = "x = bytearray(200_000_000); del x; print('ready', flush=True); input()"
    words = [sys.executable, "-c", code]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        assert 0.2 < own_memory_gb(process.pid) < 0.25
    finally:
        process.kill()
        process.communicate()
    assert own_memory_gb(process.pid) == 0.0
    assert 0 < free_gb() < 10_000


def test_a_small_program_is_not_said_to_take_no_memory() -> None:
    said: list[str] = []
    concurrency = Concurrency(ON_CPU, said.append, free=5.0)
    concurrency.started(0)
    concurrency.row_logged(0, {}, lambda: 0.02)
    assert "a run takes under 0.1 GB of 5.0" in said[0]


def test_a_sweep_says_what_it_settled_on(tmp_path: Path, text_file: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(grid())
    process = start(tmp_path, "sweep", file, text_file, "--", *FLAGS)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    cores = len(os.sched_getaffinity(0))
    if cores > 1:
        assert f"up to {cores} at a time" in said
        assert f"{cores} runs at a time: a run takes 0." in said
