"""A real run, killed without warning again and again, ends as one that was left alone."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Run

from fundamentallm.training.checkpoint import Checkpoint


def rows(folder: Path) -> list[dict[str, object]]:
    """The rows of a run, without what depends on the machine."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in found]


def grown(file: Path, before: int) -> bool:
    """Return whether a run has written rows since the file was that long."""
    return file.exists() and file.stat().st_size > before


@pytest.mark.slow
def test_killed_and_resumed_until_done(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    flags = [text_file, *tiny_flags, "--max-steps=700"]
    assert run("train", *flags, "--output-dir=whole").returncode == 0
    draw = random.Random(0)
    metrics = tmp_path / "parts/metrics.jsonl"
    command = [sys.executable, "-m", "fundamentallm", "train", *map(str, flags)]
    while_training = 0
    for number in range(5):
        before = metrics.stat().st_size if metrics.exists() else 0
        process = subprocess.Popen(
            [*command, "--output-dir=parts", "--resume"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if number == 1:  # while it starts
            time.sleep(draw.uniform(0.5, 3.0))
        else:
            while process.poll() is None and not grown(metrics, before):
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        while_training += process.wait() == -signal.SIGKILL and grown(metrics, before)
        if (tmp_path / "parts/last.pt").exists():
            Checkpoint.load(tmp_path / "parts/last.pt")  # whole, whenever the kill came
    assert while_training >= 3
    assert run("train", *flags, "--output-dir=parts", "--resume").returncode == 0
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    ends = [
        json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "parts")
    ]
    assert ends[0]["best_val_loss"] == ends[1]["best_val_loss"]
