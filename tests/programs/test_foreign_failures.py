"""Programs that fail, hang, flood, fork or ignore signals, and sweeps of them that are stopped."""

from __future__ import annotations

import os
import shutil
import signal
import textwrap
from pathlib import Path
from typing import Any

import foreign
import pytest
import yaml
from conftest import nightly
from tiny_sweep import kill, metric_rows, trials, wait_for

from fundamentallm.sweep.program.output import LARGEST_OUTPUT, TAIL

LR = {"lr": {"values": [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]}}


def write(folder: Path, script: str, **changes: Any) -> Path:
    """Write a program and its sweep file; the program has `lr`, `log(step, loss)` and `once`."""
    start = """\
        import json, os, signal, subprocess, sys, time
        from pathlib import Path
        lr = float(sys.argv[1].removeprefix("--lr="))
        run_dir = Path(os.environ["FUNDAMENTALLM_RUN_DIR"])
        def log(step, loss):
            print(json.dumps({"step": step, "loss": loss}))
        """
    text = textwrap.dedent(start) + textwrap.dedent(script)
    (folder / "train.py").write_text(text)
    content = {
        "program": "train.py", "method": "grid", "parameters": LR,
        "metric": {"name": "loss", "goal": "minimize"}, **changes,
    }  # fmt: skip
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def statuses(folder: Path) -> list[str]:
    """Return the status of every run."""
    return [foreign.summary(run)["status"] for run in foreign.run_folders(folder / "runs/sweep")]


def score(folder: Path, number: int) -> float | None:
    """Return the score of the last trial of a run, from 0."""
    found = [t for t in trials(folder / "runs/sweep") if t.user_attrs["run"] == number]
    return found[-1].value


@pytest.mark.slow
def test_ctrl_c_stops_the_programs_and_the_same_command_resumes(tmp_path: Path) -> None:
    file = foreign.place("json_lines", tmp_path)
    content = yaml.safe_load(file.read_text())
    foreign.change(file, parameters=content["parameters"] | {"seconds": {"value": 0.3}})
    command = ("sweep", file, "--workers=2")
    process = foreign.start(tmp_path, *command)
    folder = tmp_path / "runs/sweep"
    wait_for(lambda: (folder / "run-0002/metrics.jsonl").exists())
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 130, output
    assert "resume with: fundamentallm agent runs/sweep" in output
    assert "stopping: programs get SIGINT" in output
    assert "saved" not in output
    assert "Traceback" not in output
    assert not foreign.programs(tmp_path)
    assert "interrupted" in statuses(tmp_path)

    copy = tmp_path / "other/runs/sweep"
    shutil.copytree(folder, copy)
    output = foreign.run(tmp_path / "other", "agent", copy, code=2)
    assert "--file" in output
    assert not [run for run in foreign.run_folders(copy) if foreign.programs(run)]
    for name in ("train.py", "truth.py", "sweep.yaml"):
        shutil.copy2(tmp_path / name, tmp_path / "other")
    foreign.run(tmp_path / "other", "agent", copy, "--file=sweep.yaml")

    foreign.run(tmp_path, *command)
    for each in (folder, copy):
        runs = foreign.run_folders(each)
        assert len(runs) == 6
        for run in runs:
            assert foreign.summary(run)["status"] == "done"
            foreign.check_numbers(run)


@pytest.mark.parametrize("goal", ["minimize", nightly("maximize")])
def test_hyperband_stops_a_program_that_keeps_its_score(goal: str, tmp_path: Path) -> None:
    """The first run is the best, so every other is stopped at its second row."""
    sign = 1 if goal == "minimize" else -1
    file = write(
        tmp_path,
        f"""
        for step in range(2 if lr == 0.01 else 10_000):
            log(step, {sign} * (lr - 0.001 * min(step, 1)))
            time.sleep(0.05)
        """,
        metric={"name": "loss", "goal": goal},
        parameters={"lr": {"values": [0.01, 0.02, 0.03]}},
        early_terminate={"type": "hyperband", "min_iter": 2, "eta": 3},
    )
    output = foreign.run(tmp_path, "sweep", file, "--workers=1")
    runs = foreign.run_folders(tmp_path / "runs/sweep")
    assert [foreign.summary(run)["stopped_by"] for run in runs[1:]] == ["hyperband"] * 2, output
    assert statuses(tmp_path)[0] == "done"
    for number, lr in enumerate((0.01, 0.02, 0.03)):
        assert score(tmp_path, number) == sign * (lr - 0.001)
    assert "failed" not in output


def test_a_program_that_removes_its_own_folder_fails(tmp_path: Path) -> None:
    """A new start would remove it again, and a full disk is another matter."""
    file = write(
        tmp_path,
        """
        import shutil
        shutil.rmtree(run_dir.parent)
        log(0, 1.0)
        """,
        parameters={"lr": {"values": [0.01]}},
    )
    output = foreign.run(tmp_path, "sweep", file, "--workers=1", code=1)
    assert "run 1 of 1 failed: its folder was removed while it ran" in output
    assert "waiting for room" not in output
    assert "Traceback" not in output


@pytest.mark.nightly
def test_a_program_that_ignores_signals_is_killed(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            signal.signal(getattr(signal, name), lambda number, _: print("got", number))
        log(0, lr)
        while True:
            time.sleep(1)
        """,
    )
    process = foreign.start(tmp_path, "sweep", file, "--workers=1")
    run = tmp_path / "runs/sweep/run-0001"
    wait_for(lambda: (run / "metrics.jsonl").exists() and metric_rows(run))
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 130, output
    assert not foreign.programs(tmp_path)
    lines = (run / "output.txt").read_text().splitlines()
    assert [line for line in lines if line.startswith("got")] == ["got 2", "got 15"]


def test_a_program_that_fails_is_shown_and_retried(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        log(0, lr)
        attempts = Path(f"attempts-{lr}")
        with attempts.open("a") as file:
            file.write("x")
        if lr == 0.02 and len(attempts.read_text()) < 2 or lr == 0.03:
            print("what went wrong:", lr)
            sys.exit(3)
        """,
        parameters={"lr": {"values": [0.01, 0.02, 0.03]}},
    )
    output = foreign.run(tmp_path, "sweep", file, "--workers=1", "--retries=1", code=1)
    assert statuses(tmp_path) == ["done", "done", "failed"]
    assert "what went wrong: 0.02" in output
    assert "what went wrong: 0.03" in output
    run = tmp_path / "runs/sweep/run-0003"
    assert foreign.summary(run)["exit_code"] == 3
    attempts = [(tmp_path / f"attempts-{lr}").read_text() for lr in (0.01, 0.02, 0.03)]
    assert attempts == ["x", "xx", "xx"]
    assert score(tmp_path, 1) == 0.02


def test_a_program_that_is_killed_at_its_end_keeps_its_rows(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        done = run_dir / "done"
        if not done.exists():
            log(0, lr)
            log(1, lr / 2)
            done.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        parameters={"lr": {"values": [0.01]}},
    )
    output = foreign.run(tmp_path, "sweep", file)
    run = tmp_path / "runs/sweep/run-0001"
    assert foreign.summary(run)["step"] == 1
    assert metric_rows(run) == [{"step": 0, "loss": 0.01}, {"step": 1, "loss": 0.005}]
    assert score(tmp_path, 0) == 0.005
    assert "never logged" not in output


def test_three_failures_at_the_start_stop_the_sweep(tmp_path: Path) -> None:
    file = write(tmp_path, "print('no module named nonsense')\nsys.exit(1)\n")
    output = foreign.run(tmp_path, "sweep", file, "--workers=1", code=1)
    assert statuses(tmp_path) == ["failed"] * 3, output
    assert "no module named nonsense" in output


def test_a_program_that_cannot_start_is_no_riddle(tmp_path: Path) -> None:
    file = write(tmp_path, "", command=["./no-such-program", "${args}"])
    output = foreign.run(tmp_path, "sweep", file, "--workers=1", code=2)
    assert "no-such-program" in output
    assert "Traceback" not in output


def test_a_timeout_ends_a_program(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        log(0, lr)
        if lr == 0.01:
            time.sleep(1000)
        """,
        parameters={"lr": {"values": [0.01, 0.02]}},
    )
    output = foreign.run(tmp_path, "sweep", file, "--workers=1", "--trial-timeout=0.05", code=1)
    assert statuses(tmp_path) == ["failed", "done"], output
    assert "timeout" in foreign.summary(tmp_path / "runs/sweep/run-0001")["stopped_by"]
    assert not foreign.programs(tmp_path)


def test_a_flood_of_output_is_cut_and_metrics_after_it_count(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        line = "x" * 1000
        for _ in range(100_000):
            print(line)
        print("the last words")
        log(7, lr)
        """,
        parameters={"lr": {"values": [0.01]}},
    )
    foreign.run(tmp_path, "sweep", file)
    run = tmp_path / "runs/sweep/run-0001"
    output = (run / "output.txt").read_bytes()
    assert LARGEST_OUTPUT < len(output) < LARGEST_OUTPUT + 3 * TAIL
    assert b"the last words" in output[-2 * TAIL :]
    assert metric_rows(run) == [{"step": 7, "loss": 0.01}]


@pytest.mark.parametrize("daemon", [True, nightly(False)])
def test_a_child_that_keeps_stdout_open_does_not_hold_up_the_sweep(
    daemon: bool, tmp_path: Path
) -> None:
    file = write(
        tmp_path,
        f"""
        child = subprocess.Popen(["sleep", "1000"], start_new_session={daemon})
        (run_dir / "child").write_text(str(child.pid))
        log(0, lr)
        """,
        parameters={"lr": {"values": [0.01]}},
    )
    foreign.run(tmp_path, "sweep", file)
    run = tmp_path / "runs/sweep/run-0001"
    child = int((run / "files/child").read_text())
    assert foreign.summary(run)["status"] == "done"
    assert metric_rows(run) == [{"step": 0, "loss": 0.01}]
    if daemon:
        kill(child)
    wait_for(lambda: not foreign.programs(tmp_path))


def test_a_secret_of_the_command_is_neither_shown_nor_stored(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        assert sys.argv[2:] == ["--token", "hunter2", "--url=https://hunter2@host"]
        log(0, lr)
        """,
        parameters={"lr": {"values": [0.01]}},
        command=[
            *("${env}", "${interpreter}", "${program}", "${args}"),
            *("--token", "${envvar:TOKEN}", "--url=https://${envvar:TOKEN}@host"),
        ],
    )
    output = foreign.run(tmp_path, "sweep", file, "--dry-run", TOKEN="hunter2")
    assert "${envvar:TOKEN}" in output
    assert not (tmp_path / "runs").exists()
    output += foreign.run(tmp_path, "sweep", file, TOKEN="hunter2")
    output += foreign.run(tmp_path, "explain", "runs/sweep", TOKEN="hunter2")
    assert "hunter2" not in output
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert not [path for path in files if b"hunter2" in path.read_bytes()]
    assert "${envvar:TOKEN}" in foreign.summary(tmp_path / "runs/sweep/run-0001")["program"]


@pytest.mark.slow
def test_a_program_dies_with_a_killed_worker(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        log(0, lr)
        time.sleep(1000 if not Path("quick").exists() else 0)
        """,
        parameters={"lr": {"values": [0.01, 0.02]}},
    )
    folder = tmp_path / "runs/sweep"
    process = foreign.start(tmp_path, "sweep", file, "--workers=2", FUNDAMENTALLM_LEASE="3")
    wait_for(lambda: len(foreign.programs(tmp_path)) == 2)
    (supervisor, other) = foreign.supervisors(tmp_path)
    kill(supervisor)
    wait_for(lambda: len(set(foreign.supervisors(tmp_path)) - {supervisor}) == 2)
    wait_for(lambda: len(foreign.programs(tmp_path)) == 2)
    process.kill()
    process.wait()
    wait_for(lambda: not foreign.programs(tmp_path))
    assert other
    (tmp_path / "quick").touch()
    foreign.run(tmp_path, "sweep", file, FUNDAMENTALLM_LEASE="3")
    assert statuses(tmp_path) == ["done", "done"]
    for number, run in enumerate(foreign.run_folders(folder)):
        assert metric_rows(run) == [{"step": 0, "loss": (number + 1) / 100}]
