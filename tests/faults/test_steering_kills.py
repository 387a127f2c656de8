"""Requests to a sweep survive kills of workers and of the command itself, and are met once."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from conftest import Run
from tiny_sweep import FLAGS, grid, metric_rows, start, summaries, trials, wait_for

pytestmark = pytest.mark.slow


def test_a_stop_is_kept_when_the_worker_is_killed_at_once(
    run: Run, tmp_path: Path, text_file: Path
) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=1, seeds=3, steps=1200, every=50))
    folder = tmp_path / "runs/t"
    sweep = start(tmp_path, "sweep", "t.yaml", text_file.name, "--workers", 2, "--", *FLAGS)
    wait_for(lambda: all((folder / name / "last.pt").exists() for name in ("run-0001", "run-0002")))
    os.kill(sweep.pid, signal.SIGSTOP)  # it does not see the request
    assert run("stop", "runs/t", 1).returncode == 0
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.wait()
    done = run("agent", "runs/t", "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert "run 1 of 3 stopped early by hand, val_loss" in done.stdout
    of_run = [[t for t in trials(folder) if t.user_attrs["run"] == n] for n in range(3)]
    states = [[trial.state.name for trial in each] for each in of_run]
    assert states == [["FAIL", "PRUNED"], ["FAIL", "COMPLETE"], ["COMPLETE"]]
    rows = metric_rows(folder / "run-0001")
    assert of_run[0][1].value == min(row["val_loss"] for row in rows if "val_loss" in row)
    assert [each["status"] for each in summaries(folder).values()] == [
        "interrupted",
        "done",
        "done",
    ]
    assert run("agent", "runs/t").returncode == 0
    assert len(trials(folder)) == 5


def test_enqueue_can_be_killed_at_any_moment_and_repeated(
    run: Run, tmp_path: Path, text_file: Path
) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=3, seeds=4))
    points = [(rate, seed) for rate in (0.003, 0.002) for seed in (3, 1, 2)]
    lines = [f"- {{learning_rate: {rate}, seed: {seed}}}\n" for rate, seed in points]
    (tmp_path / "points.yaml").write_text("".join(lines))
    words = ("enqueue", "runs/t", "--file", "points.yaml")
    folder, rng = tmp_path / "runs/t", random.Random(3)
    run("sweep", "t.yaml", text_file.name, "--count", 0, "--", *FLAGS)
    began = time.monotonic()
    whole = start(tmp_path, "enqueue", "runs/t", "--learning-rate=0.003", "--seed=3")
    assert whole.wait() == 0
    seconds = time.monotonic() - began
    sweep = start(tmp_path, "agent", "runs/t", "--workers", 2)
    for _ in range(6):
        killed = start(tmp_path, *words)
        time.sleep(rng.uniform(0.5, 1.5) * seconds)
        killed.kill()
        killed.wait()
    done = run(*words)
    assert done.returncode == 0, done.stderr
    said = sweep.communicate(timeout=300)[0]
    assert sweep.returncode == 0, said
    found = trials(folder)
    assert [trial.user_attrs["run"] for trial in found] == list(range(12))
    assert len({tuple(trial.params.items()) for trial in found}) == 12
    assert {trial.state.name for trial in found} == {"COMPLETE"}


def test_a_pause_outlives_every_worker(run: Run, tmp_path: Path, text_file: Path) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=1, seeds=3, steps=1200, every=50))
    folder = tmp_path / "runs/t"
    sweep = start(tmp_path, "sweep", "t.yaml", text_file.name, "--workers", 2, "--", *FLAGS)
    wait_for(lambda: all((folder / name / "last.pt").exists() for name in ("run-0001", "run-0002")))
    assert run("pause", "runs/t").returncode == 0
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.wait()
    agent = start(tmp_path, "agent", "runs/t", "--workers", 2)
    assert agent.stdout is not None
    assert any("the sweep is paused" in line for line in iter(agent.stdout.readline, ""))
    killed = start(tmp_path, "resume", "runs/t")
    time.sleep(0.3)
    killed.kill()
    killed.wait()
    assert run("resume", "runs/t").returncode == 0
    said = agent.communicate(timeout=300)[0]
    assert agent.returncode == 0, said
    complete = [trial for trial in trials(folder) if trial.state.name == "COMPLETE"]
    assert sorted(trial.user_attrs["run"] for trial in complete) == [0, 1, 2]
