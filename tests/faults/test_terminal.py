"""A run saves and ends if its terminal closes, or continues if it ignores SIGHUP."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tiny_sweep import FLAGS, grid, wait_for

from fundamentallm.training.checkpoint import Checkpoint

UNENDING = ["--max-steps=1000000", "--epochs=1000000", "--output-dir=out", "--no-wandb"]


class Terminal:
    """Program in a terminal of its own, as in a window."""

    def __init__(self, folder: Path, *words: object, ignored: tuple[signal.Signals, ...] = ()):
        """Start `python -m fundamentallm WORDS`, with `ignored` signals, as under nohup."""
        self.ours, theirs = pty.openpty()

        def attach() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            for number in ignored:
                signal.signal(number, signal.SIG_IGN)

        self.process = subprocess.Popen(
            [sys.executable, "-m", "fundamentallm", *map(str, words)], cwd=folder, stdin=theirs,
            stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=attach,
        )  # fmt: skip
        os.close(theirs)

    def wait_for(self, condition: Callable[[], bool]) -> str:
        """Read the output until `condition` is true, and return it."""
        shown = b""
        while not condition():
            assert self.process.poll() is None, shown.decode()
            with suppress(OSError):  # EIO: the program just ended
                shown += os.read(self.ours, 65536)
        return shown.decode()

    def close(self) -> None:
        """Close the window."""
        os.close(self.ours)


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_a_run_saves_and_ends_with_its_terminal(
    text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    window = Terminal(tmp_path, "train", text_file, *tiny_flags, *UNENDING)
    window.wait_for((tmp_path / "out/last.pt").exists)
    window.close()
    assert window.process.wait(60) == 129
    assert summary(tmp_path / "out")["stopped_by"] == "SIGHUP"
    rows = (tmp_path / "out/metrics.jsonl").read_text().splitlines()
    saved = Checkpoint.load(tmp_path / "out/last.pt").progress["step"]
    assert saved >= json.loads(rows[-1])["step"]


def test_a_run_that_ignores_sighup_continues(
    text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    flags = ["--max-steps=600", "--output-dir=out", "--no-wandb"]
    words = ["train", text_file, *tiny_flags, *flags]
    window = Terminal(tmp_path, *words, ignored=(signal.SIGHUP,))
    window.wait_for((tmp_path / "out/last.pt").exists)
    window.close()  # from now on every write to the terminal fails: EIO
    assert window.process.wait(200) == 0
    assert (summary(tmp_path / "out")["status"], summary(tmp_path / "out")["step"]) == ("done", 600)


@pytest.mark.parametrize(("ignored", "code"), [((), 129), ((signal.SIGHUP,), 0)])
def test_a_sweep_in_a_closed_terminal(
    ignored: tuple[signal.Signals, ...], code: int, text_file: Path, tmp_path: Path
) -> None:
    shutil.copy2(Path(__file__).parent.parent.parent / "train.py", tmp_path)
    (tmp_path / "g.yaml").write_text(grid(2, 1, steps=100_000 if code else 1000))
    words = ["sweep", "g.yaml", text_file, "--workers=1", "--", *FLAGS, "--epochs=1000000"]
    window = Terminal(tmp_path, *words, ignored=ignored)
    shown = window.wait_for((tmp_path / "runs/g/run-0001/last.pt").exists)
    assert "run 1 of 2 starts" in shown
    window.close()
    assert window.process.wait(200) == code
    if code:
        assert summary(tmp_path / "runs/g/run-0001")["stopped_by"] == "SIGHUP"
    else:
        assert [summary(tmp_path / f"runs/g/run-000{n}")["status"] for n in (1, 2)] == ["done"] * 2
        assert (tmp_path / "runs/g/report.html").exists()


def test_a_run_under_nohup(text_file: Path, tiny_flags: list[str], tmp_path: Path) -> None:
    check_ignored(tmp_path, signal.SIGHUP, "nohup", [text_file, *tiny_flags], "")


def test_a_run_in_the_background_of_a_script(
    text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    """A process that a script starts with `&` ignores Ctrl-C."""
    check_ignored(tmp_path, signal.SIGINT, "", [text_file, *tiny_flags], "& wait $!")


def check_ignored(
    folder: Path, number: signal.Signals, before: str, flags: list[object], after: str
) -> None:
    """Check that a run started by a script ignores `number` and ends with SIGTERM."""
    words = [sys.executable, "-m", "fundamentallm", "train", *flags, *UNENDING]
    line = f"{before} {' '.join(map(str, words))} >/dev/null 2>&1 {after}"
    script = subprocess.Popen(["sh", "-c", line], cwd=folder, start_new_session=True)
    try:
        wait_for((folder / "out/last.pt").exists)
        run = int(summary(folder / "out")["process"])
        os.kill(run, number)
        rows = folder / "out/metrics.jsonl"
        size = rows.stat().st_size
        wait_for(lambda: rows.stat().st_size > size + 5000)
        os.kill(run, signal.SIGTERM)
        assert script.wait(60) == 143
    finally:
        with suppress(ProcessLookupError):
            os.killpg(script.pid, signal.SIGKILL)
