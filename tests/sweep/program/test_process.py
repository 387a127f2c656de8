"""Process of another program: its start, its signals, and its end with the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fundamentallm.sweep.program.process import ProgramProcess, StopSequence, kill_leftovers


def start(code: str, folder: Path, **variables: str) -> ProgramProcess:
    """Start Python code as a program."""
    return ProgramProcess([sys.executable, "-c", code], str(folder), {**os.environ, **variables})


def output_of(process: ProgramProcess) -> str:
    """Return all that a program prints until its end."""
    text = b""
    while (data := process.read()) is not None:
        text += data
        time.sleep(0.01)
    return text.decode()


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, perhaps without being waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_program_starts_as_the_agent_of_wandb_starts_it(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "print(os.getcwd(), os.getpgrp() == os.getpid(), repr(sys.stdin.read()), os.environ['A'])\n"
        "print([signal.getsignal(s).name for s in (signal.SIGTERM, signal.SIGHUP)])\n"
    )
    process = start(code, tmp_path, A="1")
    lines = output_of(process).splitlines()
    assert lines == [f"{tmp_path} True '' 1", "['SIG_DFL', 'SIG_DFL']"]
    assert process.wait() == 0


@pytest.mark.parametrize("ignored", ["", "SIGINT", "SIGINT,SIGTERM"])
def test_a_stop_becomes_firmer(ignored: str, tmp_path: Path) -> None:
    code = (
        "import signal, time\n"
        f"for name in {ignored.split(',') if ignored else []}:\n"
        "    signal.signal(getattr(signal, name), signal.SIG_IGN)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    process = start(code, tmp_path)
    while not process.read():
        time.sleep(0.01)
    stop = StopSequence(process, grace=0.2)
    while process.exit_code() is None:
        stop.advance()
        time.sleep(0.01)
    expected = {"": signal.SIGINT, "SIGINT": signal.SIGTERM}.get(ignored, signal.SIGKILL)
    assert process.exit_code() == -expected


def test_a_program_dies_with_its_supervisor(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from fundamentallm.sweep.program.process import ProgramProcess\n"
        "process = ProgramProcess([sys.executable, '-c', 'import time; time.sleep(600)'], '.',"
        " dict(os.environ))\n"
        "print(process.group, flush=True)\n"
        "time.sleep(600)\n"
    )
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        program = int(supervisor.stdout.readline())
        assert not is_gone(program)
        supervisor.kill()
        supervisor.wait()
        while not is_gone(program):
            time.sleep(0.01)


def test_what_an_earlier_trial_left_behind_is_killed(tmp_path: Path) -> None:
    sleep = "import time; time.sleep(600)"
    left, other = (start(sleep, tmp_path, OF_A_RUN=name) for name in ("run-1", "run-10"))
    for process in (left, other):  # the environment is known once the program has started
        while b"OF_A_RUN" not in Path(f"/proc/{process.group}/environ").read_bytes():
            time.sleep(0.01)
    kill_leftovers("OF_A_RUN", "run-1")
    assert left.wait() == -signal.SIGKILL
    assert other.exit_code() is None
    other.kill()
