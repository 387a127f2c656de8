"""`clean` and `--keep` free what nothing needs, and only what is proved ours."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from conftest import ROOT, TEXT, Run, fill
from tiny_sweep import FLAGS, grid, summaries, trials

from fundamentallm.files.run_folder import RunFolder
from fundamentallm.training.checkpoint import Checkpoint

CHECKPOINTS = ("best.pt", "last.pt", "trunk.pt")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `runs/g` of a sweep of six runs, and what belongs to it."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copy2(ROOT / "train.py", folder)
    (folder / "cats.txt").write_text(TEXT)
    (folder / "g.yaml").write_text(grid(6, 1))
    words = ["sweep", "g.yaml", "cats.txt", "--workers=1", "--", *FLAGS]
    done = subprocess.run(
        [sys.executable, "-m", "fundamentallm", *words], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "would free" not in done.stdout  # a few kB are not worth a line
    return folder


@pytest.fixture
def sweep(trained: Path, tmp_path: Path) -> Path:
    """A copy of the sweep, for a test to change."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "runs/g"


def checkpoints(sweep: Path) -> dict[str, list[str]]:
    """Return the checkpoints of each run."""
    runs = sorted(sweep.glob("run-*"))
    return {run.name: [name for name in CHECKPOINTS if (run / name).exists()] for run in runs}


def best_runs(sweep: Path, count: int) -> list[str]:
    losses = {name: each["best_val_loss"] for name, each in summaries(sweep).items()}
    return sorted(losses, key=losses.__getitem__)[:count]


def test_it_is_shown_first_and_then_done(run: Run, sweep: Path) -> None:
    before = {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()}
    shown = run("clean", "runs/g")
    assert shown.returncode == 0, shown.stderr
    *table, stays = shown.stdout.splitlines()
    assert [line.split()[:3] for line in table] == [
        ["best.pt", "2", "runs"], ["last.pt", "2", "runs"], ["total", "2", "runs"],
    ]  # fmt: skip
    kept = best_runs(sweep, 4)
    assert stays == (
        f"all checkpoints stay of {', '.join(sorted(kept))}, and of runs that have not finished"
    )
    assert "nothing was removed" in shown.stderr
    assert {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()} == before

    explained = run("explain", "runs/g").stdout
    done = run("clean", "runs/g", "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("freed ")
    assert checkpoints(sweep) == {
        name: ["best.pt", "last.pt"] if name in kept else [] for name in summaries(sweep)
    }
    gone = [path for path in before if not path.exists()]
    assert len(gone) == 4
    assert run("explain", "runs/g").stdout == explained
    again = run("clean", "runs/g", "--yes")
    assert (again.returncode, again.stdout) == (0, "runs/g: nothing to remove\n")


@pytest.mark.nightly
def test_what_needs_a_removed_checkpoint_says_so(run: Run, sweep: Path) -> None:
    assert run("clean", "runs/g", "--yes").returncode == 0
    worst = next(name for name in summaries(sweep) if name not in best_runs(sweep, 4))
    for words in (("generate", f"runs/g/{worst}"), ("evaluate", f"runs/g/{worst}", "cats.txt")):
        told = run(*words)
        assert told.returncode == 2
        assert told.stderr.count("\n") == 1
        assert "best.pt and last.pt of this run were removed by fundamentallm clean" in told.stderr
    assert run("generate", "runs/g", "--max-tokens=5").returncode == 0  # the best of the sweep
    shutil.copytree(sweep / worst, sweep.parent.parent / "alone")
    told = run("train", "cats.txt", "--output-dir=alone", "--resume", "--no-wandb")
    assert told.returncode == 2
    assert "last.pt is gone, removed by fundamentallm clean or --keep" in told.stderr
    resumed = run("agent", "runs/g", "--data=cats.txt")  # no run is incomplete
    assert resumed.returncode == 0, resumed.stderr
    assert len(trials(sweep)) == 6


@pytest.mark.slow
def test_refine_continues_the_best_and_says_what_starts_over(run: Run, sweep: Path) -> None:
    assert run("clean", "runs/g", "--yes").returncode == 0
    flags = ["--max-steps=24", "--seeds=1", "--workers=1"]
    done = run("refine", "runs/g", "--top=4", "--output-dir=four", *flags)
    assert done.returncode == 0, done.stderr
    assert "start over" not in done.stderr
    assert all(each["reused_from"] for each in summaries(sweep.parent.parent / "four").values())
    done = run("refine", "runs/g", "--top=6", "--output-dir=six", *flags)
    assert done.returncode == 0, done.stderr
    assert "checkpoints of 2 runs were removed by fundamentallm clean" in done.stderr
    reused = ["reused_from" in each for each in summaries(sweep.parent.parent / "six").values()]
    assert sorted(reused) == [False, False, True, True, True, True]


def test_the_last_state_of_every_run_can_stay(run: Run, sweep: Path) -> None:
    done = run("clean", "runs/g", "--keep=last", "--yes")
    assert done.returncode == 0, done.stderr
    kept = best_runs(sweep, 4)
    worst = next(name for name in summaries(sweep) if name not in kept)
    assert checkpoints(sweep)[worst] == ["last.pt"]
    assert checkpoints(sweep)[kept[0]] == ["best.pt", "last.pt"]
    wrote = run("generate", f"runs/g/{worst}", "--max-tokens=5")
    assert wrote.returncode == 0
    assert "best.pt was removed by fundamentallm clean or --keep; the model of last.pt" in (
        wrote.stderr
    )


def test_runs_in_progress_or_of_others_keep_everything(run: Run, sweep: Path) -> None:
    first, second = (name for name in summaries(sweep) if name not in best_runs(sweep, 4))
    (sweep / second / "last.pt").write_bytes(b"my own notes")
    with RunFolder(sweep / first).held():
        done = run("clean", "runs/g", "--yes")
    assert done.returncode == 1
    assert f"{first}: a run is in progress there" in done.stderr
    assert f"{second}/last.pt: not written by a run of fundamentallm" in done.stderr
    assert checkpoints(sweep)[first] == checkpoints(sweep)[second] == ["best.pt", "last.pt"]
    assert done.stdout.splitlines()[-1] == "freed 0 kB"


def test_links_are_not_followed(run: Run, sweep: Path, tmp_path: Path) -> None:
    worst = next(name for name in summaries(sweep) if name not in best_runs(sweep, 4))
    mine = tmp_path / "mine.pt"
    shutil.move(sweep / worst / "best.pt", mine)
    (sweep / worst / "best.pt").symlink_to(mine)
    done = run("clean", "runs/g", "--yes")
    assert done.returncode == 2
    assert "a link, where fundamentallm has a file" in done.stderr
    assert mine.exists()
    shutil.move(sweep / "run-0002", tmp_path / "mine")
    (sweep / worst / "best.pt").unlink()
    (sweep / "run-0002").symlink_to(tmp_path / "mine")
    assert run("clean", "runs/g", "--yes").returncode == 2
    assert (tmp_path / "mine/best.pt").exists()


def test_what_is_no_sweep_of_ours_is_refused(run: Run, sweep: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/best.pt").write_text("mine")
    told = run("clean", "mine", "--yes")
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    (sweep.parent / "tune.json").write_text("{}")
    for words in (("clean", "runs/g", "--yes"), ("agent", "runs/g", "--keep=best")):
        told = run(*words, *(["--data=cats.txt"] if words[0] == "agent" else []))
        assert told.returncode == 2
        assert "part of a tuning, which continues from its runs" in told.stderr
    assert all(len(names) == 2 for names in checkpoints(sweep).values())


def test_a_sweep_that_keeps_the_best(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cats.txt").write_text(TEXT)
    (tmp_path / "g.yaml").write_text(grid(6, 1))
    words = ["g.yaml", "cats.txt", "--workers=2", "--keep=best", "--", *FLAGS]
    done = run("sweep", *words)
    assert done.returncode == 0, done.stderr
    sweep = tmp_path / "runs/g"
    kept = best_runs(sweep, 4)
    assert checkpoints(sweep) == {
        name: ["best.pt", "last.pt"] if name in kept else [] for name in summaries(sweep)
    }
    assert run("clean", "runs/g").stdout == "runs/g: nothing to remove\n"


def test_the_end_of_a_sweep_says_what_could_be_freed(run: Run, sweep: Path) -> None:
    """Also of a sweep whose runs have all ended before."""
    worst = next(name for name in summaries(sweep) if name not in best_runs(sweep, 4))
    saved = (sweep / worst / "last.pt").read_bytes()
    (sweep / worst / "last.pt").write_bytes(bytes(5_000_000) + saved)  # still closed by its mark
    done = run("agent", "runs/g", "--data=cats.txt")
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("all checkpoints are kept; fundamentallm clean runs/g would free 5 MB")


def test_another_programs_files_stay(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("print()\n")
    text = "program: other.py\nmethod: grid\nmetric: {name: loss}\nparameters: {x: {values: [1]}}\n"
    (tmp_path / "o.yaml").write_text(text)
    told = run("sweep", "o.yaml", "--keep=best", "--count=0")
    assert told.returncode == 2
    assert "--keep is for our trainer's checkpoints" in told.stderr
    told = run("clean", "runs/o", "--yes")
    assert told.returncode == 2
    assert "its runs are of another program, whose files stay" in told.stderr


def test_room_is_made_on_a_full_disk(run: Run, sweep: Path, small_disk: Path) -> None:
    # as beside a sweep that waits for room, which has its database open
    shutil.copytree(sweep, small_disk / "g")
    with closing(sqlite3.connect(small_disk / "g/study.db")) as opened:
        opened.execute("SELECT count(*) FROM trials").fetchone()
        ballast = fill(small_disk)
        size = ballast.stat().st_size
        done = run("clean", small_disk / "g", "--yes")
    assert done.returncode == 0, done.stderr
    assert sum(bool(names) for names in checkpoints(small_disk / "g").values()) == 4
    worst = next(name for name, names in checkpoints(small_disk / "g").items() if not names)
    assert RunFolder(small_disk / "g" / worst).removed() == ["best.pt", "last.pt"]
    assert ballast.stat().st_size == size


@pytest.mark.slow
def test_a_kill_leaves_whole_files_and_the_next_one_ends_the_work(run: Run, sweep: Path) -> None:
    dice = random.Random(1)
    words = [sys.executable, "-m", "fundamentallm", "clean", str(sweep), "--yes"]
    started = time.monotonic()
    subprocess.run([*words[:-2], "/nowhere"], capture_output=True, check=False)
    usual = time.monotonic() - started
    for _ in range(4):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(usual * dice.uniform(0.5, 1.5))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for name, files in checkpoints(sweep).items():
            assert RunFolder(sweep / name).has_ended()
            for file in files:
                Checkpoint.load(sweep / name / file)
    done = run("clean", sweep, "--yes")
    assert done.returncode == 0, done.stderr
    assert sum(bool(names) for names in checkpoints(sweep).values()) == 4
