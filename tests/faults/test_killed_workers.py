"""Every run of a sweep finishes exactly once, whatever is killed or suspended."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from tiny_sweep import (
    FLAGS,
    grid,
    kill,
    metric_rows,
    pause,
    processes,
    start,
    summaries,
    trials,
    wait_for,
)

pytestmark = pytest.mark.slow


def finished_once(folder: Path, runs: int) -> None:
    """Every run has one result, a whole folder, and no row twice."""
    complete = [trial for trial in trials(folder) if trial.state.name == "COMPLETE"]
    assert sorted(trial.user_attrs["run"] for trial in complete) == list(range(runs))
    assert {trial.user_attrs["run"] for trial in trials(folder)} == set(range(runs))
    points = {repr(sorted(trial.params.items())) for trial in complete}
    assert len(points) == runs
    found = summaries(folder)
    assert len(found) == len(list(folder.glob("run-*"))) == runs
    assert {each["status"] for each in found.values()} == {"done"}
    for trial in complete:
        rows = metric_rows(folder / f"run-{trial.user_attrs['run'] + 1:04}")
        assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
        assert trial.value == min(row["val_loss"] for row in rows if "val_loss" in row)


def children(folder: Path) -> list[int]:
    """Trials in progress."""
    return processes(str(folder / "runs/tiny/run-"))


@pytest.mark.nightly
def test_sixty_points_and_a_killer(tmp_path: Path, text_file: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(grid(rates=10, seeds=6, steps=40, every=10))
    # A run that is killed five times in a row is given up; here that is chance.
    command = ("sweep", file, text_file, "--workers", 4, "--retries", 24, "--", *FLAGS)
    dice = random.Random(7)
    folder = tmp_path / "runs/tiny"
    killed = {"trial": 0, "server": 0, "parent": 0}
    process = start(tmp_path, *command)
    output = ""
    deadline = time.monotonic() + 400
    while process.poll() != 0:
        assert time.monotonic() < deadline, output
        if process.poll() is not None:
            output += process.communicate()[0]
            process = start(tmp_path, *command)
        time.sleep(dice.uniform(0.3, 1.5))
        if sum(killed.values()) >= 24 or not children(tmp_path):
            continue
        what = dice.choice(["trial", "trial", "trial", "server", "parent"])
        servers = [pid for pid in processes("forkserver") if _parent(pid) == process.pid]
        if what == "trial" and (victims := set(children(tmp_path)) - set(servers)):
            kill(dice.choice(sorted(victims)))
        elif what == "server" and servers:
            kill(dice.choice(servers))
        elif what == "parent":
            kill(process.pid)
        else:
            continue
        killed[what] += 1
    output += process.communicate()[0]
    assert process.returncode == 0, output
    assert all(killed.values()), killed
    finished_once(folder, 60)
    wait_for(lambda: not processes(str(tmp_path)))


def _parent(pid: int) -> int:
    try:
        return int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_a_worker_stopped_past_its_lease_is_refused(tmp_path: Path, text_file: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(grid(rates=1, seeds=1, steps=3500, every=50))
    folder = tmp_path / "runs/tiny"
    command = ("sweep", file, text_file, "--workers", 1, "--", *FLAGS)
    asleep = start(tmp_path, *command, FUNDAMENTALLM_LEASE="12")
    wait_for(lambda: (folder / "run-0001/last.pt").exists())
    pause(asleep, folder)  # its trial trains on, and writes
    trial = children(tmp_path)
    other = start(tmp_path, "agent", folder)
    wait_for(lambda: len(trials(folder)) == 2)
    wait_for(lambda: len(set(children(tmp_path)) - set(trial)) == 1)
    os.kill(asleep.pid, signal.SIGCONT)
    said = asleep.communicate(timeout=120)[0]
    assert "run 1 was given to another worker while this one did not respond" in said
    assert "run 1 of 1 done" not in said
    said = other.communicate(timeout=120)[0]
    assert other.returncode == 0, said
    assert "run 1 resumes" in said or "run 1 of 1 resumes" in said
    finished_once(folder, 1)
    assert len(metric_rows(folder / "run-0001")) == 350
    wait_for(lambda: not processes(str(tmp_path)))


def test_a_trial_that_gives_no_sign_of_life_is_killed_and_tried_again(
    tmp_path: Path, text_file: Path
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(grid(rates=1, seeds=1, steps=1500, every=50))
    folder = tmp_path / "runs/tiny"
    command = ("sweep", file, text_file, "--workers", 1, "--", *FLAGS)
    process = start(tmp_path, *command, FUNDAMENTALLM_LEASE="6")
    wait_for(lambda: (folder / "run-0001/last.pt").exists())
    (stopped,) = children(tmp_path)
    os.kill(stopped, signal.SIGSTOP)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    assert "run 1 does not respond; it is killed" in said
    assert "run 1 of 1 resumes" in said
    finished_once(folder, 1)


@pytest.mark.nightly
def test_a_sweep_that_is_suspended_goes_on(tmp_path: Path, text_file: Path) -> None:
    """Ctrl-Z and fg, a paused container, a suspended job: all of it stops, for several leases."""
    file = tmp_path / "tiny.yaml"
    file.write_text(grid(rates=1, seeds=1, steps=3000, every=50))
    folder = tmp_path / "runs/tiny"
    command = ("sweep", file, text_file, "--workers", 1, "--", *FLAGS)
    process = start(tmp_path, *command, FUNDAMENTALLM_LEASE="3")
    wait_for(lambda: (folder / "run-0001/last.pt").exists())
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(10)
    os.killpg(process.pid, signal.SIGCONT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    assert "does not respond" not in said
    assert len(trials(folder)) == 1
    finished_once(folder, 1)


@pytest.mark.nightly
def test_a_second_agent_shares_the_work(tmp_path: Path, text_file: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(grid(rates=6, seeds=2, steps=60, every=20))
    folder = tmp_path / "runs/tiny"
    workers = [start(tmp_path, "sweep", file, text_file, "--workers", 1, "--", *FLAGS)]
    wait_for(folder.joinpath("sweep.yaml").exists)
    workers.append(start(tmp_path, "agent", "runs/tiny", "--workers", 1))
    for worker in workers:
        assert worker.communicate(timeout=120)[0] is not None
        assert worker.returncode == 0
    finished_once(folder, 12)
    owners = {trial.user_attrs["owner"] for trial in trials(folder)}
    assert len(owners) == 2
