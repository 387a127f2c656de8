"""Every run of a sweep finishes exactly once, even if processes are killed or suspended."""

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


def check_finished_once(folder: Path, runs: int) -> None:
    """Check that every run has one result, a complete folder, and no row twice."""
    complete = [trial for trial in trials(folder) if trial.state.name == "COMPLETE"]
    assert sorted(trial.user_attrs["run"] for trial in complete) == list(range(runs))
    assert {trial.user_attrs["run"] for trial in trials(folder)} == set(range(runs))
    configurations = {repr(sorted(trial.params.items())) for trial in complete}
    assert len(configurations) == runs
    summary_of = summaries(folder)
    assert len(summary_of) == len(list(folder.glob("run-*"))) == runs
    assert {each["status"] for each in summary_of.values()} == {"done"}
    for trial in complete:
        rows = metric_rows(folder / f"run-{trial.user_attrs['run'] + 1:04}")
        assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
        assert trial.value == min(row["val_loss"] for row in rows if "val_loss" in row)


def trial_processes(folder: Path) -> list[int]:
    """Return the processes of running trials."""
    return processes(str(folder / "runs/tiny/run-"))


@pytest.mark.nightly
def test_sixty_runs_and_a_killer(tmp_path: Path, text_file: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(grid(rates=10, seeds=6, steps=40, every=10))
    # By default a run ends after five kills in a row; that can happen here by chance.
    command = ("sweep", file, text_file, "--workers", 4, "--retries", 24, "--", *FLAGS)
    rng = random.Random(7)
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
        time.sleep(rng.uniform(0.3, 1.5))
        if sum(killed.values()) >= 24 or not trial_processes(tmp_path):
            continue
        victim_kind = rng.choice(["trial", "trial", "trial", "server", "parent"])
        servers = [pid for pid in processes("forkserver") if _parent(pid) == process.pid]
        if victim_kind == "trial" and (victims := set(trial_processes(tmp_path)) - set(servers)):
            kill(rng.choice(sorted(victims)))
        elif victim_kind == "server" and servers:
            kill(rng.choice(servers))
        elif victim_kind == "parent":
            kill(process.pid)
        else:
            continue
        killed[victim_kind] += 1
    output += process.communicate()[0]
    assert process.returncode == 0, output
    assert all(killed.values()), killed
    check_finished_once(folder, 60)
    wait_for(lambda: not processes(str(tmp_path)))


def _parent(pid: int) -> int:
    try:
        return int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@pytest.mark.nightly
def test_a_worker_paused_past_its_lease_loses_its_run(tmp_path: Path, text_file: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(grid(rates=1, seeds=1, steps=3500, every=50))
    folder = tmp_path / "runs/tiny"
    command = ("sweep", file, text_file, "--workers", 1, "--", *FLAGS)
    paused = start(tmp_path, *command, FUNDAMENTALLM_LEASE="12")
    wait_for(lambda: (folder / "run-0001/last.pt").exists())
    pause(paused, folder)  # its trial continues to train and write
    trial = trial_processes(tmp_path)
    other = start(tmp_path, "agent", folder)
    wait_for(lambda: len(trials(folder)) == 2)
    wait_for(lambda: len(set(trial_processes(tmp_path)) - set(trial)) == 1)
    os.kill(paused.pid, signal.SIGCONT)
    shown = paused.communicate(timeout=120)[0]
    assert "run 1 was given to another worker while this one did not respond" in shown
    assert "run 1 of 1 done" not in shown
    shown = other.communicate(timeout=120)[0]
    assert other.returncode == 0, shown
    assert "run 1 resumes" in shown or "run 1 of 1 resumes" in shown
    check_finished_once(folder, 1)
    assert len(metric_rows(folder / "run-0001")) == 350
    wait_for(lambda: not processes(str(tmp_path)))


@pytest.mark.nightly
def test_a_trial_that_does_not_respond_is_killed_and_retried(
    tmp_path: Path, text_file: Path
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(grid(rates=1, seeds=1, steps=1500, every=50))
    folder = tmp_path / "runs/tiny"
    command = ("sweep", file, text_file, "--workers", 1, "--", *FLAGS)
    process = start(tmp_path, *command, FUNDAMENTALLM_LEASE="6")
    wait_for(lambda: (folder / "run-0001/last.pt").exists())
    (stopped,) = trial_processes(tmp_path)
    os.kill(stopped, signal.SIGSTOP)
    shown = process.communicate(timeout=120)[0]
    assert process.returncode == 0, shown
    assert "run 1 does not respond; it is killed" in shown
    assert "run 1 of 1 resumes" in shown
    check_finished_once(folder, 1)


@pytest.mark.nightly
def test_a_suspended_sweep_continues(tmp_path: Path, text_file: Path) -> None:
    """Ctrl-Z, a paused container or a suspended job stops all processes for several leases."""
    file = tmp_path / "tiny.yaml"
    file.write_text(grid(rates=1, seeds=1, steps=3000, every=50))
    folder = tmp_path / "runs/tiny"
    command = ("sweep", file, text_file, "--workers", 1, "--", *FLAGS)
    process = start(tmp_path, *command, FUNDAMENTALLM_LEASE="3")
    wait_for(lambda: (folder / "run-0001/last.pt").exists())
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(10)
    os.killpg(process.pid, signal.SIGCONT)
    shown = process.communicate(timeout=120)[0]
    assert process.returncode == 0, shown
    assert "does not respond" not in shown
    assert len(trials(folder)) == 1
    check_finished_once(folder, 1)


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
    check_finished_once(folder, 12)
    owners = {trial.user_attrs["owner"] for trial in trials(folder)}
    assert len(owners) == 2
