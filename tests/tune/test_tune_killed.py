"""`fundamentallm tune` killed at random moments ends with the model of one never killed."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXT

from fundamentallm.training.checkpoint import Checkpoint

KILLS = 20
FLAGS = ("--runs=0.3", "--workers=1", "--max-parameters=60000")
"""Long enough for every phase of a text of 11,000 characters."""
TIMEOUT = 1800


def start(folder: Path, name: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "fundamentallm", "tune", "cats.txt", *FLAGS]
    with (folder / f"{name}.txt").open("ab") as output:
        return subprocess.Popen(
            [*words, f"--output-dir={name}"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a command with all that it started, as a machine that loses power does."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kill_after(process: subprocess.Popen[bytes], clock: Path, seconds: float) -> bool:
    """Kill a command so many seconds after it first wrote `clock`; return whether it still ran."""
    before = written_at(clock)
    while process.poll() is None and written_at(clock) == before:
        time.sleep(0.02)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        kill(process)
        return True
    return False


def written_at(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


def decisions(folder: Path) -> Mapping[str, Any]:
    return json.loads((folder / "tune.json").read_text("utf-8"))["decisions"]


@pytest.mark.nightly
def test_a_tuning_killed_at_random_moments_ends_with_the_same_model(tmp_path: Path) -> None:
    (tmp_path / "cats.txt").write_text(TEXT, "utf-8")
    begin = time.monotonic()
    whole = start(tmp_path, "whole")
    assert whole.wait(TIMEOUT) == 0, (tmp_path / "whole.txt").read_text()
    took = time.monotonic() - begin
    expected = Checkpoint.load(tmp_path / "whole/best.pt")
    assert {"shapes", "search", "train"} <= {each.name for each in (tmp_path / "whole").iterdir()}
    moments, kills = random.Random(27), 0
    for tuning in itertools.count():
        folder = tmp_path / f"killed-{tuning}"
        folder.mkdir()
        shutil.copy2(tmp_path / "whole/measurements.json", folder)
        while True:
            process = start(tmp_path, folder.name)
            # Mostly longer than a run: what it did since its last evaluation is lost.
            life = moments.uniform(0, took / 3) if kills < KILLS else TIMEOUT
            if not kill_after(process, folder / "clock.json", life):
                break
            kills += 1
        assert process.returncode == 0, (tmp_path / f"{folder.name}.txt").read_text()
        assert decisions(folder) == decisions(tmp_path / "whole")
        found = Checkpoint.load(folder / "best.pt")
        assert found.config == expected.config
        assert found.model.keys() == expected.model.keys()
        for key, weights in expected.model.items():
            assert torch.equal(found.model[key], weights), key
        if kills >= KILLS:
            return
