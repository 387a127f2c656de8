"""Promise 8: a trial without steps is dumped, stopped and recorded, and the sweep goes on."""

from __future__ import annotations

import os
import threading
import time
from multiprocessing import Pipe
from pathlib import Path

import pytest
from tiny_sweep import FLAGS, grid, start, summaries, trials, wait_for

from fundamentallm.sweep.engine import trial_pipe as lines
from fundamentallm.sweep.engine.job import Heartbeat, Outcome, Stop

DISK_THAT_IS_AWAY = """
import os, time
real = os.fsync
def fsync(descriptor):
    while os.path.exists("away"):
        time.sleep(0.1)
    real(descriptor)
os.fsync = fsync
"""
"""A sitecustomize.py: in a folder that has a file `away`, the disk does not answer."""


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life every 50 ms, and no process ends."""
    monkeypatch.setattr(lines, "BEAT_SECONDS", 0.05)

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)


def hangs(line: lines.TrialPipe, seconds: float) -> bool:
    """Whether a line that is told nothing more says within `seconds` that its trial hangs."""
    beating = threading.Thread(target=line.beat, daemon=True)
    beating.start()
    beating.join(seconds)
    hung = not beating.is_alive()
    line.ended.set()
    beating.join()
    return hung


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_hangs_is_told_from_its_own_steps(beats: None) -> None:
    ours, theirs = Pipe()
    line = lines.TrialPipe(theirs, patience=0.2)
    assert not hangs(line, 0.5)  # no step yet: it is still getting ready
    line = lines.TrialPipe(theirs, patience=0.2)
    line.stop_requested()
    assert hangs(line, 2.0)
    messages = []
    while ours.poll():
        messages.append(ours.recv())
    assert isinstance(messages[0], Heartbeat)
    assert isinstance(messages[-1], Outcome)
    assert messages[-1].status == "hung"
    slow = lines.TrialPipe(theirs, patience=0.2)
    for _ in range(2):  # its steps take 100 ms, so 2 s pass before it is said to hang
        slow.stop_requested()
        time.sleep(0.1)
    assert not hangs(slow, 1.0)
    done = lines.TrialPipe(theirs, patience=0.2)
    done.stop_requested()
    done.over()
    assert not hangs(done, 0.6)


def test_what_takes_long_to_save_gives_signs_of_life(beats: None) -> None:
    ours, theirs = Pipe()
    line = lines.TrialPipe(theirs, patience=60)
    ours.send(Stop("SIGTERM"))
    assert line.stop_requested() == "SIGTERM"
    assert not hangs(line, 0.3)
    assert ours.poll()
    assert isinstance(ours.recv(), Heartbeat)


@pytest.mark.slow
def test_a_hung_trial_is_recorded_and_the_sweep_goes_on(tmp_path: Path, text_file: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(grid(rates=2, seeds=1, steps=1500, every=50))
    folder = tmp_path / "runs/tiny"
    command = ("sweep", file, text_file, "--workers", 1, "--", *FLAGS)
    (tmp_path / "sitecustomize.py").write_text(DISK_THAT_IS_AWAY)
    process = start(tmp_path, *command, FUNDAMENTALLM_LEASE="3", PYTHONPATH=str(tmp_path))
    wait_for((folder / "run-0001/last.pt").exists)
    (folder / "run-0001/away").touch()
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 1, said
    assert "run 1 of 2 hung: no step for " in said
    assert "run 2 of 2 done" in said
    assert summaries(folder)["run-0001"]["status"] == "hung"
    first = trials(folder)[0]
    assert first.user_attrs["result"]["status"] == "hung"
    output = (folder / "run-0001/output.txt").read_text()
    assert "where every thread was" in output
    assert "in fsync" in output  # the function that waited
