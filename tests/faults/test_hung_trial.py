"""Promise 8: a trial without steps is dumped, stopped and recorded, and the sweep continues."""

from __future__ import annotations

import os
import threading
import time
from multiprocessing import Pipe
from pathlib import Path

import pytest
from tiny_sweep import FLAGS, grid, start, summaries, trials, wait_for

from fundamentallm.sweep.engine import trial_pipe
from fundamentallm.sweep.engine.job import Heartbeat, Outcome, Stop

BLOCKED_DISK = """
import os, time
real = os.fsync
def fsync(descriptor):
    while os.path.exists("away"):
        time.sleep(0.1)
    real(descriptor)
os.fsync = fsync
"""
"""A sitecustomize.py that blocks fsync in a folder with a file `away`."""


@pytest.fixture
def fast_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a heartbeat every 50 ms, and replace os._exit by SystemExit."""
    monkeypatch.setattr(trial_pipe, "BEAT_SECONDS", 0.05)

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)


def hangs(pipe: trial_pipe.TrialPipe, seconds: float) -> bool:
    """Return True if a pipe without further steps reports a hang within `seconds`."""
    beating = threading.Thread(target=pipe.beat, daemon=True)
    beating.start()
    beating.join(seconds)
    hung = not beating.is_alive()
    pipe.ended.set()
    beating.join()
    return hung


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_time_limit_adapts_to_the_length_of_steps(fast_heartbeats: None) -> None:
    engine_end, trial_end = Pipe()
    pipe = trial_pipe.TrialPipe(trial_end, hang_timeout=0.2)
    assert not hangs(pipe, 0.5)  # no step yet: the trial is still starting
    pipe = trial_pipe.TrialPipe(trial_end, hang_timeout=0.2)
    pipe.stop_requested()
    assert hangs(pipe, 2.0)
    messages = []
    while engine_end.poll():
        messages.append(engine_end.recv())
    assert isinstance(messages[0], Heartbeat)
    assert isinstance(messages[-1], Outcome)
    assert messages[-1].status == "hung"
    slow_pipe = trial_pipe.TrialPipe(trial_end, hang_timeout=0.2)
    for _ in range(2):  # its steps take 100 ms, so the limit is 2 s
        slow_pipe.stop_requested()
        time.sleep(0.1)
    assert not hangs(slow_pipe, 1.0)
    done_pipe = trial_pipe.TrialPipe(trial_end, hang_timeout=0.2)
    done_pipe.stop_requested()
    done_pipe.over()
    assert not hangs(done_pipe, 0.6)


def test_a_slow_save_sends_heartbeats(fast_heartbeats: None) -> None:
    engine_end, trial_end = Pipe()
    pipe = trial_pipe.TrialPipe(trial_end, hang_timeout=60)
    engine_end.send(Stop("SIGTERM"))
    assert pipe.stop_requested() == "SIGTERM"
    assert not hangs(pipe, 0.3)
    assert engine_end.poll()
    assert isinstance(engine_end.recv(), Heartbeat)


@pytest.mark.slow
def test_a_hung_trial_is_recorded_and_the_sweep_continues(tmp_path: Path, text_file: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(grid(rates=2, seeds=1, steps=1500, every=50))
    folder = tmp_path / "runs/tiny"
    command = ("sweep", file, text_file, "--workers", 1, "--", *FLAGS)
    (tmp_path / "sitecustomize.py").write_text(BLOCKED_DISK)
    process = start(tmp_path, *command, FUNDAMENTALLM_LEASE="3", PYTHONPATH=str(tmp_path))
    wait_for((folder / "run-0001/last.pt").exists)
    (folder / "run-0001/away").touch()
    shown = process.communicate(timeout=200)[0]
    assert process.returncode == 1, shown
    assert "run 1 of 2 hung: no step for " in shown
    assert "run 2 of 2 done" in shown
    assert summaries(folder)["run-0001"]["status"] == "hung"
    first = trials(folder)[0]
    assert first.user_attrs["result"]["status"] == "hung"
    output = (folder / "run-0001/output.txt").read_text()
    assert "stack of every thread" in output
    assert "in fsync" in output  # the function that blocked
