"""Every run of a foreign program finishes once, whatever is killed, and leaves no process."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import foreign
import pytest
from conftest import fill
from tiny_sweep import kill, metric_rows, summaries, trials, wait_for

pytestmark = pytest.mark.slow

QUICK = {"seconds": {"value": 0.1}}
GRIDS = {
    "json_lines": {
        "lr": {"values": [round(0.01 * (i + 1), 2) for i in range(8)]},
        "seed": {"values": list(range(5))},
        "epochs": {"value": 6},
    },
    "resumes": {
        "lr": {"values": [round(0.01 * (i + 1), 2) for i in range(20)]},
        "steps": {"values": [5, 6]},
    },
}


def check_finished_once(folder: Path, points: int, *, is_resumed: bool) -> None:
    """Check that every point of the grid has one complete trial and one folder with its numbers."""
    complete = [trial for trial in trials(folder) if trial.state.name == "COMPLETE"]
    assert sorted(trial.user_attrs["run"] for trial in complete) == list(range(points))
    assert len({repr(sorted(trial.params.items())) for trial in complete}) == points
    assert {each["status"] for each in summaries(folder).values()} == {"done"}
    runs = foreign.run_folders(folder)
    assert len(runs) == points
    for trial in complete:
        run = runs[trial.user_attrs["run"]]
        rows = metric_rows(run)
        if is_resumed:  # W&B's client loses the rows of up to a second when it is killed
            assert [row for row in foreign.noted(run) if row in rows] == rows
            assert rows[-1]["step"] == foreign.config(run)["steps"] - 1
        else:
            foreign.check_numbers(run)
        assert trial.value == min(row["loss"] for row in rows)
        config = foreign.config(run)
        assert {name: config[name] for name in trial.params} == trial.params


@pytest.mark.nightly
@pytest.mark.parametrize("name", GRIDS)
def test_forty_points_and_a_killer(name: str, tmp_path: Path) -> None:
    file = foreign.place(name, tmp_path)
    foreign.change(file, parameters=GRIDS[name] | QUICK)
    # By default a run ends after five kills in a row; that can happen here by chance.
    command = ("sweep", file, "--workers=2", "--retries=24")
    folder = tmp_path / "runs/sweep"
    rng = random.Random(25)
    killed = dict.fromkeys(("program", "supervisor", "worker"), 0)
    workers: list[subprocess.Popen[str]] = [foreign.start(tmp_path, *command)]
    wait_for(folder.joinpath("study.db").exists)
    workers.append(foreign.start(tmp_path, *command))
    deadline = time.monotonic() + 400
    while any(worker.poll() != 0 for worker in workers):
        for i, worker in enumerate(workers):
            assert time.monotonic() < deadline, worker.communicate()[0]
            if worker.poll() not in (None, 0):
                assert worker.returncode == -signal.SIGKILL, worker.communicate()[0]
                workers[i] = foreign.start(tmp_path, *command)
        time.sleep(rng.uniform(0.2, 1.0))
        kind = rng.choice(["program", "program", "supervisor", "supervisor", "worker"])
        victims = {
            "program": list(filter(foreign.is_script, foreign.programs(tmp_path))),
            "supervisor": foreign.supervisors(tmp_path),
            "worker": [worker.pid for worker in workers if worker.poll() is None],
        }[kind]
        if victims and sum(killed.values()) < 30:
            kill(rng.choice(victims))
            killed[kind] += 1
    assert all(killed.values()), killed
    check_finished_once(folder, 40, is_resumed=name == "resumes")
    wait_for(lambda: not foreign.programs(tmp_path))


def test_a_killed_program_that_resumes_by_itself_keeps_its_rows(tmp_path: Path) -> None:
    file = foreign.place("resumes", tmp_path)
    parameters = {"lr": {"value": 0.1}, "steps": {"value": 4}, "seconds": {"value": 1.5}}
    foreign.change(file, parameters=parameters)
    process = foreign.start(tmp_path, "sweep", file)
    run = tmp_path / "runs/sweep/run-0001"
    wait_for(lambda: (run / "metrics.jsonl").exists() and len(metric_rows(run)) == 2)
    (program,) = filter(foreign.is_script, foreign.programs(tmp_path))
    kill(program)
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 0, output
    foreign.check_numbers(run)
    noted = (run / "files/truth.jsonl").read_text().splitlines()
    assert len(noted) == 4  # no step was done twice
    assert len(list((run / "wandb").glob("offline-run-*"))) == 2
    names = {path.name.rpartition("-")[2] for path in (run / "wandb").glob("offline-run-*")}
    assert len(names) == 1  # both are the same run on W&B


def test_a_killed_program_that_starts_over_loses_its_rows(tmp_path: Path) -> None:
    file = foreign.place("json_lines", tmp_path)
    parameters = {"lr": {"value": 0.1}, "epochs": {"value": 8}, "seconds": {"value": 0.3}}
    foreign.change(file, parameters=parameters)
    process = foreign.start(tmp_path, "sweep", file)
    run = tmp_path / "runs/sweep/run-0001"
    wait_for(lambda: (run / "metrics.jsonl").exists() and len(metric_rows(run)) >= 3)
    (program,) = foreign.programs(tmp_path)
    kill(program)
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 0, output
    assert len((run / "files/truth.jsonl").read_text().splitlines()) > 8
    assert [row["step"] for row in metric_rows(run)] == list(range(8))
    foreign.check_numbers(run)


def test_lines_before_the_client_starts_are_no_rows_after_a_kill_either(tmp_path: Path) -> None:
    """The program prints a line of JSON, then logs to W&B, in each of two attempts."""
    (tmp_path / "train.py").write_text(
        "import os, signal, time, wandb\n"
        "print('{\"settings\": 3}', flush=True)\n"
        "time.sleep(1)\n"
        "with wandb.init() as run:\n"
        "    run.log({'loss': 1.0})\n"
        "    time.sleep(3)\n"
        "    if 'WANDB_RESUME' not in os.environ:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "sweep.yaml").write_text(
        "program: train.py\nmethod: grid\nmetric: {name: loss}\nparameters: {x: {values: [1]}}\n"
    )
    output = foreign.run(tmp_path, "sweep", "sweep.yaml")
    run = tmp_path / "runs/sweep/run-0001"
    assert metric_rows(run) == [{"step": 0, "loss": 1.0}], output
    assert foreign.summary(run)["status"] == "done"
    assert len(list((run / "abandoned").iterdir())) == 1


def test_a_worker_killed_while_it_stops_a_run_leaves_no_program(tmp_path: Path) -> None:
    """The program, which ignores SIGINT, is killed at once, before it is sent SIGTERM."""
    (tmp_path / "train.py").write_text(
        "import pathlib, signal, time\n"
        "for each in (signal.SIGINT, signal.SIGTERM):\n"
        "    signal.signal(each, lambda number, _: pathlib.Path(f'got-{number}').touch())\n"
        "pathlib.Path('ready').touch()\n"
        "while True: time.sleep(0.1)\n"
    )
    (tmp_path / "sweep.yaml").write_text(
        "program: train.py\nmethod: grid\nmetric: {name: loss}\nparameters: {x: {values: [1]}}\n"
    )
    process = foreign.start(tmp_path, "sweep", "sweep.yaml")
    wait_for((tmp_path / "ready").exists)
    process.send_signal(signal.SIGINT)
    wait_for((tmp_path / f"got-{signal.SIGINT:d}").exists)
    kill(process.pid)
    wait_for(lambda: not foreign.programs(tmp_path))
    assert not (tmp_path / f"got-{signal.SIGTERM:d}").exists()


@pytest.mark.nightly
def test_a_sweep_of_a_foreign_program_waits_for_space(small_disk: Path) -> None:
    (small_disk / "train.py").write_text(
        "import sys, time\n"
        "for step in range(100):\n"
        "    time.sleep(0.05)\n"
        '    print(\'{"step": %d, "loss": %d}\' % (step, 200 - step), flush=True)\n'
    )
    (small_disk / "sweep.yaml").write_text(
        "program: train.py\nmethod: grid\nmetric: {name: loss}\n"
        "parameters: {seed: {values: [0, 1, 2, 3]}}\n"
    )
    process = foreign.start(small_disk, "sweep", "sweep.yaml", "--workers=2")
    folder = small_disk / "runs/sweep"
    wait_for(lambda: any(each["status"] == "done" for each in summaries(folder).values()))
    ballast = fill(small_disk)
    time.sleep(8)
    assert process.poll() is None
    ballast.unlink()
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    assert "waiting" in output
    for run in foreign.run_folders(folder):
        assert foreign.summary(run)["status"] == "done"
        assert metric_rows(run) == [{"step": n, "loss": 200 - n} for n in range(100)]
