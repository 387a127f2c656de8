"""A sweep goes on wherever it is picked up: from another folder, renamed, with its own text."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import TEXT, Run
from tiny_sweep import FLAGS, grid, start, summaries, wait_for

from fundamentallm.cli import worker
from fundamentallm.cli.sweep_texts import named_texts
from fundamentallm.data.text import Text
from fundamentallm.files.atomic import DiskError
from fundamentallm.sweep.engine.disk_wait import DiskWait
from fundamentallm.sweep.engine.job import JobMaker, TextSource
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.program import words_of_every_run
from fundamentallm.sweep.search.space import SearchSpace, check_space
from fundamentallm.sweep.store.definition import SweepDefinition
from fundamentallm.sweep.store.records import Run as SweepRun
from fundamentallm.sweep.store.records import Trial
from fundamentallm.sweep.store.run_store import RunStore
from fundamentallm.sweep.store.sweep_folder import SweepFolder
from fundamentallm.training.impossible import summary_of_impossible

ON_ITS_TEXT = grid(rates=1).replace("parameters:", "parameters:\n  data: {value: cats.txt}")


def agent(folder: Path, *arguments: object, **environment: str) -> tuple[int, str]:
    """The exit code of `fundamentallm agent`, run in that folder, and what it says."""
    process = start(folder, "agent", *arguments, **environment)
    said, _ = process.communicate()
    return process.returncode, said


def test_an_agent_finds_the_texts_that_the_file_names(
    run: Run, tmp_path: Path, text_file: Path
) -> None:
    (tmp_path / "t.yaml").write_text(ON_ITS_TEXT)
    assert run("sweep", "t.yaml", "--count=1", "--", *FLAGS).returncode == 0
    (tmp_path / "elsewhere").mkdir()
    code, said = agent(tmp_path / "elsewhere", "../runs/t", "--data=../cats.txt")
    assert code == 2
    assert "leave out --data" in said
    text_file.write_text(TEXT + "one more")
    for command in (("agent", "runs/t"), ("sweep", "t.yaml", "--", *FLAGS)):
        changed = run(*command)
        assert changed.returncode == 2
        assert "cats.txt" in changed.stderr
    text_file.rename(tmp_path / "dogs.txt")
    code, said = agent(tmp_path / "elsewhere", "../runs/t")
    assert code == 2
    assert "none of the texts that the sweep names is here" in said
    assert len(summaries(tmp_path / "runs/t")) == 1
    text_file.write_text(TEXT)
    code, said = agent(tmp_path / "elsewhere", "../runs/t")
    assert code == 0, said
    assert len(summaries(tmp_path / "runs/t")) == 2


def test_a_sweep_on_the_built_in_text_goes_on(run: Run, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "program: train.py\nmethod: grid\nmetric: {name: val_loss}\nparameters:\n"
        "  seed: {values: [0]}\n  max_steps: {value: 2}\n"
    )
    assert run("sweep", "c.yaml", "built-in", "--count=0", "--", *FLAGS).returncode == 0
    assert run("sweep", "c.yaml", "--count=0", "--", *FLAGS).returncode == 0  # the same text
    for more in (["--count=0"], ["--data=built-in"]):
        on = run("agent", "runs/c", *more)
        assert on.returncode == 0, on.stderr
    assert len(summaries(tmp_path / "runs/c")) == 1


def test_a_folder_that_was_renamed_is_the_same_sweep(
    run: Run, tmp_path: Path, text_file: Path
) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=1))
    command = ("sweep", "t.yaml", text_file, "--count=1")
    assert run(*command, "--", *FLAGS).returncode == 0
    (tmp_path / "runs/t").rename(tmp_path / "runs/first")
    before = (tmp_path / "runs/first/run-0001/metrics.jsonl").read_bytes()
    again = run("sweep", "t.yaml", text_file, "--output-dir=runs/first", "--", *FLAGS)
    assert again.returncode == 0, again.stderr
    assert len(summaries(tmp_path / "runs/first")) == 2
    assert (tmp_path / "runs/first/run-0001/metrics.jsonl").read_bytes() == before
    assert run("agent", "runs/first").returncode == 0


def test_an_agent_keeps_to_the_storage_of_the_folder(
    run: Run, tmp_path: Path, text_file: Path
) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=1))
    assert run("sweep", "t.yaml", text_file, "--count=1", "--", *FLAGS).returncode == 0
    other = f"sqlite:///{tmp_path}/other.db"
    code, said = agent(tmp_path, "runs/t", FUNDAMENTALLM_STORAGE=other)
    assert code == 2
    assert "its runs are kept in" in said
    assert not (tmp_path / "other.db").exists()


def test_who_joins_keeps_the_lease(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leases: list[tuple[float, float]] = []

    def work(definition: SweepDefinition, store: RunStore, folder: SweepFolder, **_: Any) -> int:
        leases.append((store.lease, store.heartbeats.lease))
        return 0

    monkeypatch.setattr(worker, "work", work)
    space = SearchSpace(parse_sweep(grid(), "t.yaml"), {})
    for lease in (600.0, 60.0):
        folder = SweepFolder(tmp_path / "t")
        definition = SweepDefinition(space, device="auto", seed=0, sampler="auto", lease=lease)
        worker.begin(definition, folder, None, data=None, wait=0.0)
    assert leases == [(600.0, 600.0)] * 2


def test_the_text_of_a_config_is_used(run: Run, tmp_path: Path, text_file: Path) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=1, seeds=1))
    (tmp_path / "c.yaml").write_text("data: cats.txt\nmodel_dim: 16\n")
    done = run("sweep", "t.yaml", "--", *FLAGS, "--config=c.yaml")
    assert done.returncode == 0, done.stderr
    assert "on cats.txt" in done.stdout
    assert "data: cats.txt" in (tmp_path / "runs/t/run-0001/config.yaml").read_text()


def test_variables_in_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXT", "cats.txt")
    words = '[python, "${program}", "${envvar:TEXT}", "--dropout=${envvar:D}", "${args}"]'
    sweep = parse_sweep(f"{grid()}command: {words}\n", "t")
    assert words_of_every_run(sweep) == ["cats.txt", "--dropout=D"]


def test_a_text_that_the_sweep_names_is_looked_for_where_it_was_made(tmp_path: Path) -> None:
    data = TextSource(None, "", "", {"cats.txt": "12"}, str(tmp_path))
    here = str(Path("cats.txt").absolute())
    assert data.text("cats.txt") == (here, "cats.txt", "12")
    (tmp_path / "cats.txt").touch()
    assert data.text("cats.txt") == (str(tmp_path / "cats.txt"), "cats.txt", "12")
    assert data.text("built-in") == (None, "built-in", "")


@pytest.mark.parametrize("more", ["", ", probabilities: [0.5, 0.5]"])
def test_the_texts_that_a_sweep_names_are_known(more: str) -> None:
    text = f"{grid()}  data: {{values: [a.txt, b.txt]{more}}}\n".replace("grid", "random")
    assert named_texts(parse_sweep(text, "t")) == ["a.txt", "b.txt"]


def test_room_for_small_files_does_not_end_the_wait_for_a_disk(tmp_path: Path) -> None:
    disk = DiskWait(tmp_path, 0.0, lambda _: None)
    disk.write_failed(1, "last.pt cannot be written")
    assert disk.is_waiting
    assert disk.has_room()  # for something small
    assert not disk.is_waiting
    disk.write_failed(2, "last.pt cannot be written")  # another run
    with pytest.raises(DiskError, match="make room, then resume with"):
        disk.write_failed(1, "last.pt cannot be written")
    disk.write_succeeded(1)
    disk.write_failed(1, "last.pt cannot be written")


def test_a_disk_without_room_for_a_checkpoint_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run-0001").mkdir()
    (tmp_path / "run-0001/last.pt").write_bytes(bytes(2000))
    disk = DiskWait(tmp_path, 60.0, lambda _: None)
    disk.write_failed(0, "last.pt cannot be written")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1999))
    assert not disk.has_room()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2000))
    assert disk.has_room()


@pytest.mark.parametrize(
    ("statuses", "needed"),
    [(["failed"], 1), (["failed", "oom"], 2), (["died"] * 7, 3), (["died"], 0), (["lost"], 0)],
)
def test_the_number_of_retries_that_helps_is_known(statuses: list[str], needed: int) -> None:
    run = SweepRun(0, tuple(Trial(i, 0, {}, each, "") for i, each in enumerate(statuses)))
    assert run.retries_needed == needed


@pytest.mark.parametrize(
    "wrong",
    [
        "method: [grid]",
        "method: {a: 1}",
        "method: random\nparameters: {dropout: {distribution: [uniform]}}",
    ],
)
def test_odd_kinds_of_values_are_mistakes(wrong: str) -> None:
    with pytest.raises(SweepError):
        parse_sweep(f"program: train.py\nmetric: {{name: val_loss}}\n{wrong}\n", "t")


def test_a_distribution_beyond_all_numbers_is_a_mistake() -> None:
    entry = "{distribution: log_normal, mu: 1000, sigma: 1}"
    sweep = parse_sweep(
        "program: train.py\nmethod: random\nmetric: {name: val_loss}\n"
        f"parameters: {{learning_rate: {entry}}}\n",
        "t",
    )
    assert check_space(sweep, {}).errors
    assert SearchSpace(sweep, {}).searched[0].distribution.quantile(0.5) == float("inf")


def test_a_run_that_cannot_exist_has_a_score_by_every_metric() -> None:
    for tokenizer, bits in (("char", math.log2(5)), ("byte", 8 * 5 / 4)):
        found = summary_of_impossible({"tokenizer": tokenizer}, Text.of("abcé" * 50), "no")
        assert found["val_bits_per_char"] == pytest.approx(bits)
        assert found["val_perplexity"] == pytest.approx(math.exp(found["val_loss"]))


def test_sqlite_elsewhere_is_refused(
    run: Run, tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would find it again, and begin anew over its runs."""
    (tmp_path / "t.yaml").write_text(grid(rates=1, seeds=1))
    monkeypatch.setenv("FUNDAMENTALLM_STORAGE", f"sqlite:///{tmp_path}/other.db")
    done = run("sweep", "t.yaml", text_file, "--", *FLAGS)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "SQLite is kept beside the runs alone" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_folder_with_an_odd_name(run: Run, tmp_path: Path, text_file: Path) -> None:
    """As CI services make of a branch; in an address % and ? mean something."""
    (tmp_path / "t.yaml").write_text(grid(rates=1, seeds=1))
    folder = tmp_path / "feature%2Flr é?" / "t"
    begin = ("sweep", "t.yaml", text_file, "--output-dir", folder, "--count=0", "--", *FLAGS)
    assert run(*begin).returncode == 0
    assert (folder / "study.db").exists()
    done = run("agent", folder)
    assert done.returncode == 0, done.stderr
    assert len(summaries(folder)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["cats.txt", "t.yaml", "train.py", "feature%2Flr é?"]
    )


def test_what_is_taken_over_is_the_whole_copy(tmp_path: Path) -> None:
    """Who was killed while it deleted the old one has left that behind, half and newer."""
    folder = SweepFolder(tmp_path)
    run_folder = folder.create_run(0)
    run_folder.last.write_text("whole")
    (run_folder.path / "output.txt").write_text("said before")
    half = tmp_path / ".run-0001-left-1"
    half.mkdir()
    (half / "metrics.jsonl").write_text("")
    (tmp_path / ".run-0001-part-1").mkdir()
    os.utime(run_folder.path, (1, 1))
    folder.replace_run(0)
    assert run_folder.last.read_text() == "whole"
    assert (run_folder.path / "output.txt").read_text() == "said before"
    assert [path.name for path in tmp_path.iterdir()] == ["run-0001"]


def test_a_checkpoint_that_cannot_be_read_now_is_kept(
    run: Run, tmp_path: Path, text_file: Path, ordinary_user: list[str]
) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=1, seeds=1, steps=400, every=50))
    words = ("sweep", "t.yaml", str(text_file), "--", *FLAGS)
    process = start(tmp_path, *words)
    last = tmp_path / "runs/t/run-0001/last.pt"
    wait_for(last.exists)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    whole = last.read_bytes()
    last.chmod(0)
    command = [*ordinary_user, sys.executable, "-m", "fundamentallm", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "last.pt: Permission denied" in done.stderr
    last.chmod(0o644)
    assert last.read_bytes() == whole
    done = run("agent", "runs/t", "--retries=1")
    assert done.returncode == 0, done.stderr
    assert "run 1 of 1 goes on" in done.stdout


def test_a_sweep_in_which_all_fails_ends(run: Run, tmp_path: Path, text_file: Path) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=4, seeds=3))
    done = run("sweep", "t.yaml", text_file, "--workers=1", "--", *FLAGS, "--device=mps")
    assert done.returncode == 1
    assert "stopped by errors: all of the first 5 runs here failed; " in done.stderr
    assert len(summaries(tmp_path / "runs/t")) < 12  # one more may have begun meanwhile


def test_runs_share_out_the_cores_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("fundamentallm.machine.cores_and_memory.usable_cores", lambda: 8)
    for runs, expected in ((2, (2, 4)), (None, (8, 1)), (0, (8, 1)), (50, (8, 1))):
        found = worker.means(None, None, "cpu", runs)
        assert (found.workers, found.threads) == expected


def test_gpus_are_shared_out_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial sees one, as its first; two on each at a time."""
    monkeypatch.setattr("fundamentallm.machine.gpus.visible_gpus", lambda device: ["3", "GPU-ab"])
    here = worker.means(None, 2, "cuda:1", None)
    assert (here.workers, here.fixed) == (4, True)
    assert worker.means(None, None, "cuda", None).workers == 2 * worker.MOST_ON_A_GPU
    assert worker.means(None, None, "cuda", 3).workers == 3
    points = SearchSpace(parse_sweep(grid(), "t.yaml"), {})
    folder = SweepFolder(tmp_path)
    folder.create_run(0)
    jobs = JobMaker(folder, points, TextSource(None, "t", ""), here, patience=1.0)
    values = {"learning_rate": 0.1, "seed": 1, "max_steps": 2, "eval_every": 1}
    run = SweepRun(0, (Trial(0, 0, values, "running", "me"),))
    seen = [jobs.job(run, slot) for slot in range(4)]
    assert [job.visible_gpu for job in seen] == ["3", "GPU-ab", "3", "GPU-ab"]
    assert {job.device for job in seen} == {"cuda"}
