"""A system limit gets one error line that says what to change."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Run
from tiny_sweep import FLAGS, grid

from fundamentallm.machine.system_limits import SystemLimitError, starting_processes


@pytest.fixture
def sweep(run: Run, tmp_path: Path, text_file: Path) -> list[str]:
    """Command line of a sweep of one run; `run` copies train.py."""
    (tmp_path / "tiny.yaml").write_text(grid(rates=1, seeds=1))
    words = [sys.executable, "-m", "fundamentallm", "sweep", "tiny.yaml", str(text_file)]
    return [*words, "--workers=1", "--", *FLAGS]


def test_a_temporary_folder_with_a_long_path(sweep: list[str], tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(sweep, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"fundamentallm: TMPDIR={folder}: too long for a socket in it; give a shorter one, e.g. "
        "TMPDIR=/tmp"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("limit", "code"), [("-n 20", 1), ("-S -n 20", 0)])
def test_a_low_limit_of_open_files(limit: str, code: int, sweep: list[str], tmp_path: Path) -> None:
    words = ["sh", "-c", f'ulimit {limit}; exec "$@"', "sh", *sweep]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    advice = "too many open files, of which this process may have 20; raise the limit, e.g. by: "
    assert (f"fundamentallm: {advice}ulimit -n 1024" in done.stderr) == bool(code)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["sweep", "tiny.yaml", "cats.txt", "--output-dir", "{long}", "--", *FLAGS],
        ["agent", "{long}"],
        ["report", "{long}"],
        ["refine", "{long}", "--max-steps", "9"],
        ["train", "cats.txt", *FLAGS, "--output-dir", "{long}"],
    ],
    ids=lambda words: words[0],
)
def test_a_name_too_long(words: list[str], sweep: list[str], run: Run) -> None:
    done = run(*(word.format(long="n" * 300) for word in words))
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "n" * 300 in done.stderr.splitlines()[-1]
    assert "too long" in done.stderr or "longer than the system allows" in done.stderr


def test_the_limit_of_processes() -> None:
    with (
        pytest.raises(SystemLimitError, match="end others, or raise the limit"),
        starting_processes(),
    ):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    with pytest.raises(FileNotFoundError), starting_processes():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")


def test_too_little_memory_to_import_torch(text_file: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "fundamentallm", "train", str(text_file), *FLAGS]
    words = ["sh", "-c", 'ulimit -v 400000; exec "$@"', "sh", *words]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "fundamentallm: memory ran out; this process may have 0.41 GB; raise the limit, e.g. by: "
        "ulimit -v unlimited"
    ]
