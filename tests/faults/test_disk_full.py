"""Promise 5: a full, read-only or limited disk costs no checkpoint and no finished run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Run, fill, nightly
from tiny_sweep import FLAGS, grid, start, summaries, wait_for

from fundamentallm.files.held_folder import HeldFolder
from fundamentallm.sweep.store.sweep_folder import SweepFolder
from fundamentallm.training.checkpoint import Checkpoint

MB = 1 << 20


def test_a_run_names_the_file_and_resumes_when_there_is_room(
    run: Run, small_disk: Path, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    flags = [text_file, *tiny_flags, "--max-steps=400"]
    assert run("train", *flags, "--output-dir=whole").returncode == 0
    process = start(tmp_path, "train", *flags, f"--output-dir={small_disk}/run", "--no-wandb")
    wait_for((small_disk / "run/last.pt").exists)
    ballast = fill(small_disk)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 1, output
    last = output.strip().splitlines()[-1]
    assert f"fundamentallm: {small_disk}/run/" in last
    assert "cannot be written (No space left on device)" in last
    assert f"resume with: fundamentallm train --output-dir {small_disk}/run --resume" in last
    assert "Traceback" not in output
    Checkpoint.load(small_disk / "run/last.pt")
    ballast.unlink()
    resumed = run("train", f"--output-dir={small_disk}/run", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    scores = [json.loads((folder / "summary.json").read_text())["best_val_loss"]
            for folder in (tmp_path / "whole", small_disk / "run")]  # fmt: skip
    assert scores[0] == scores[1]


def test_a_file_that_exceeds_a_size_limit(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    """RLIMIT_FSIZE refuses the write itself, as a quota does."""
    words = [sys.executable, "-m", "fundamentallm", "train", str(text_file), *tiny_flags]
    limit = f"ulimit -f 20; exec {' '.join(words)} --output-dir=out --no-wandb"
    done = subprocess.run(
        ["bash", "-c", limit], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "out/best.pt: cannot be written (File too large)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("resource", ["space", nightly("inodes")])
def test_a_sweep_waits_for_space(small_disk: Path, text_file: Path, resource: str) -> None:
    file = small_disk / "tiny.yaml"
    file.write_text(grid(rates=2, seeds=2, steps=500, every=50))
    process = start(small_disk, "sweep", file, text_file, "--workers", 2, "--", *FLAGS)
    folder = small_disk / "runs/tiny"
    wait_for(lambda: any(s["status"] == "done" for s in summaries(folder).values()))
    if resource == "space":
        ballast = [fill(small_disk)]
    else:
        ballast = []
        for number in range(300):
            try:
                (small_disk / f"x{number}").touch()
            except OSError:
                break
            ballast.append(small_disk / f"x{number}")
    time.sleep(8)
    assert process.poll() is None
    for each in ballast:
        each.unlink()
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    assert {s["status"] for s in summaries(folder).values()} == {"done"}
    assert len(summaries(folder)) == 4
    assert "waiting" in output


@pytest.mark.nightly
def test_a_sweep_stops_with_wait_0(small_disk: Path, text_file: Path) -> None:
    file = small_disk / "tiny.yaml"
    file.write_text(grid(rates=2, seeds=2, steps=500, every=50))
    command = ("sweep", file, text_file, "--workers", 2)
    process = start(small_disk, *command, "--wait", 0, "--", *FLAGS)
    folder = small_disk / "runs/tiny"
    wait_for(lambda: any(s["status"] == "done" for s in summaries(folder).values()))
    ballast = fill(small_disk)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 1, output
    assert "Traceback" not in output
    ballast.unlink()
    process = start(small_disk, *command, "--", *FLAGS)
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 0, output
    assert {s["status"] for s in summaries(folder).values()} == {"done"}
    assert len(summaries(folder)) == 4


def test_a_read_only_disk(
    run: Run, small_disk: Path, text_file: Path, tiny_flags: list[str]
) -> None:
    output_dir = f"--output-dir={small_disk}/run"
    assert run("train", text_file, *tiny_flags, output_dir).returncode == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = run("train", output_dir, "--resume", "--max-steps=50")
    assert done.returncode == 2
    assert "cannot be written (Read-only file system)" in done.stderr
    assert "Traceback" not in done.stderr
    assert Checkpoint.load(small_disk / "run/last.pt").progress["step"] == 24
    assert run("generate", small_disk / "run", "--max-tokens=5").returncode == 0


def test_a_failed_takeover_of_a_run_can_be_repeated(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    run = folder.run(0)
    run.path.mkdir()
    run.last.write_text("its checkpoint")
    with pytest.MonkeyPatch.context() as patch:

        def full(source: HeldFolder, name: str, to: HeldFolder) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(HeldFolder, "copy", full)
        with pytest.raises(OSError, match="No space"):
            folder.replace_run(0)
    assert folder.is_half_replaced(0)
    assert not run.path.exists()
    folder.replace_run(0)
    assert run.last.read_text() == "its checkpoint"
    assert not folder.is_half_replaced(0)
    assert [path.name for path in tmp_path.iterdir()] == ["run-0001"]
