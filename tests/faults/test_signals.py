"""Promise 4: a signal to stop at any moment saves, shows how to resume, and sets the exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, Run
from tiny_sweep import FLAGS, grid, start, wait_for

from fundamentallm.training.checkpoint import Checkpoint

CODES = {signal.SIGHUP: 129, signal.SIGINT: 130, signal.SIGTERM: 143}


def code_of(process: subprocess.Popen[str]) -> int:
    """Return the exit code as a shell reports it: 128 + the number of a fatal signal."""
    assert process.returncode is not None
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.8, 1.5, 2.5, 4.0])
def test_a_signal_at_any_moment_of_the_start(
    number: signal.Signals, seconds: float, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    flags = [text_file, *tiny_flags, "--max-steps=1000000", "--output-dir=out", "--no-wandb"]
    process = start(tmp_path, "train", *flags)
    time.sleep(seconds)
    process.send_signal(number)
    output = process.communicate(timeout=120)[0]
    assert code_of(process) == CODES[number], output
    assert (
        "Traceback" not in output or "fundamentallm" not in output
    )  # Python's own startup may print one
    if (tmp_path / "out/summary.json").exists():  # if training began, it was saved
        assert "resume with: fundamentallm train --output-dir out --resume" in output
        Checkpoint.load(tmp_path / "out/last.pt")


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_in_an_evaluation(
    number: signal.Signals, run: Run, tiny_flags: list[str], tmp_path: Path
) -> None:
    (tmp_path / "long.txt").write_text("The cat sat on the mat. Who knows why?\n" * 100_000)
    flags = ["long.txt", *tiny_flags, "--val-split=0.9", "--max-steps=1000000", "--no-wandb"]
    for seconds in (4, 12, 36):  # wait longer until the signal hits an evaluation
        folder = tmp_path / f"out-{seconds}"
        process = start(tmp_path, "train", *flags, "--output-dir", folder)
        wait_for(lambda folder=folder: (folder / "summary.json").exists())
        time.sleep(seconds)  # an evaluation takes seconds; the 8 steps between two, almost none
        start_time = time.monotonic()
        process.send_signal(number)
        output = process.communicate(timeout=100)[0]
        assert code_of(process) == CODES[number], output
        assert "resume with: " in output
        assert time.monotonic() - start_time < 60
        saved = Checkpoint.load(folder / "last.pt")
        if saved.progress["evaluating"]:
            break
    assert saved.progress["evaluating"]
    assert saved.progress["step"] % 8 == 0


def test_a_second_signal_stops_at_once(
    text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    flags = [text_file, *tiny_flags, "--max-steps=1000000", "--output-dir=out", "--no-wandb"]
    process = start(tmp_path, "train", *flags)
    wait_for((tmp_path / "out/last.pt").exists)
    os.kill(process.pid, signal.SIGSTOP)  # both must arrive before it can handle one
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    output = process.communicate(timeout=60)[0]
    assert code_of(process) in CODES.values(), output
    assert "Traceback" not in output
    Checkpoint.load(tmp_path / "out/last.pt")


@pytest.mark.parametrize("second", [signal.SIGHUP, signal.SIGTERM])
def test_two_signals_of_an_ending_session_count_as_one_stop(
    second: signal.Signals, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    """The shell and the kernel both send SIGHUP; systemd sends SIGTERM and SIGHUP."""
    flags = [text_file, *tiny_flags, "--max-steps=1000000", "--output-dir=out", "--no-wandb"]
    process = start(tmp_path, "train", *flags)
    wait_for((tmp_path / "out/last.pt").exists)
    os.kill(process.pid, signal.SIGSTOP)  # both must arrive before it can handle one
    process.send_signal(signal.SIGHUP)
    process.send_signal(second)
    os.kill(process.pid, signal.SIGCONT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode in (129, 143), output
    assert "resume with: fundamentallm train --output-dir out --resume" in output


def test_a_range_test_ends_with_a_closed_terminal(
    text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    flags = [flag for flag in tiny_flags if "steps" not in flag and "eval" not in flag]
    process = start(tmp_path, "find", "learning-rate", text_file, *flags, "--output-dir=out")
    wait_for((tmp_path / "out/metrics.jsonl").exists)
    process.send_signal(signal.SIGHUP)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 129, output
    assert "stopped by SIGHUP before the test finished" in output


def test_a_sweep_saves_its_runs_when_its_terminal_closes(text_file: Path, tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(grid(2, 1, steps=1_000_000))
    words = ("sweep", "g.yaml", text_file, "--workers=2", "--", *FLAGS, "--epochs=1000000")
    process = start(tmp_path, *words)
    runs = [tmp_path / f"runs/g/run-000{number}" for number in (1, 2)]
    wait_for(lambda: all((run / "last.pt").exists() for run in runs))
    os.killpg(process.pid, signal.SIGHUP)  # a terminal sends it to the whole group
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 129, output
    assert "resume with: fundamentallm agent runs/g" in output
    for run in runs:
        summary = json.loads((run / "summary.json").read_text())
        assert (summary["status"], summary["stopped_by"]) == ("interrupted", "SIGHUP")
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        assert Checkpoint.load(run / "last.pt").progress["step"] >= last["step"]


def test_slurm_preempts_and_requeues(
    text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    """Run the `sbatch --wrap` command of docs/cluster.md; send TERM to the shell; run it again."""
    page = (ROOT / "docs/cluster.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("sbatch --requeue")]
    wrapped = line.split('--wrap "')[1].rstrip('"')
    assert wrapped.startswith("exec .venv/bin/fundamentallm sweep ")
    (tmp_path / "lr.yaml").write_text(
        f"program: {ROOT}/train.py\nmethod: grid\nmetric: {{name: val_loss}}\nparameters:\n"
        "  learning_rate: {values: [0.001, 0.002]}\n  max_steps: {value: 600}\n"
        "  eval_every: {value: 50}\n"
    )
    flags = " ".join(["--", *[f for f in tiny_flags if "steps" not in f and "eval" not in f]])
    command = wrapped.replace(".venv/bin/fundamentallm", f"{sys.executable} -m fundamentallm")
    command = command.replace("sweeps/lr.yaml data.txt", f"lr.yaml {text_file} {flags}")
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/sh\n{command}\n")

    def submit() -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", str(script)], cwd=tmp_path, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    job = submit()
    wait_for((tmp_path / "runs/lr/run-0001/last.pt").exists)
    job.send_signal(signal.SIGTERM)  # --signal=B:TERM reaches only the batch shell
    output = job.communicate(timeout=100)[0]
    assert job.returncode == 143, output
    assert "resume with: fundamentallm agent runs/lr" in output
    job = submit()  # requeued: SLURM runs the same script again
    output = job.communicate(timeout=300)[0]
    assert job.returncode == 0, output
    assert "run 1 of 2 resumes" in output
    for number in (1, 2):
        rows = (tmp_path / f"runs/lr/run-000{number}/metrics.jsonl").read_text().splitlines()
        steps = [json.loads(row)["step"] for row in rows]
        assert steps == list(range(10, 601, 10))
