"""Files that no run of ours wrote are never overwritten or removed, whatever their names."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from conftest import ROOT, TEXT, Run
from results_on_disk import write_run
from tiny_sweep import FLAGS, grid, summaries

from fundamentallm.config.hyperparameters import Config
from fundamentallm.files.held_folder import HeldFolder
from fundamentallm.files.ownership import JUDGES, LOCK, MARK, why_foreign
from fundamentallm.files.run_folder import RunFolder, RunFolderError
from fundamentallm.sweep.store.sweep_folder import SweepFolder
from fundamentallm.trackers.folder import FolderTracker

OLD_RUN = ROOT / "tests/fixtures/0.1/run"
COMPLETE = {**vars(Config()), "data": "cats.txt", "data_sha256": "0" * 64}
MINE = {
    "best.pt": "weights of mine",
    "last.pt": "more weights of mine",
    "config.yaml": "# by hand\nlearning_rate: 0.01\nmax_steps: 100\n",
    "metrics.jsonl": '{"step": 1, "loss": 2.5}\n',
    "summary.json": '{"accuracy": 0.9}\n',
    "samples.txt": "step 1 of a dance\n",
    "wandb-id.txt": "an id\nand a remark\n",
    ".lock": "do not touch\n",
}
COMMANDS = (
    ["train", "cats.txt", "--no-wandb"],
    ["train", "cats.txt", "--no-wandb", "--resume"],
    ["train", "cats.txt", "--no-wandb", "--overwrite"],
    ["find", "learning-rate", "cats.txt", "--overwrite"],
)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_every_file_of_a_run_has_an_ownership_check() -> None:
    assert {file.name for file in RunFolder("x").files} | {LOCK} == set(JUDGES)


@pytest.mark.parametrize("name", MINE)
@pytest.mark.parametrize("in_run_folder", [False, True], ids=["alone", "in a run's folder"])
def test_a_run_never_overwrites_a_file_of_the_user(
    name: str, in_run_folder: bool, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "out")
    if in_run_folder:
        shutil.copytree(OLD_RUN, folder.path)
    folder.path.mkdir(exist_ok=True)
    (folder.path / name).write_text(MINE[name])
    before = contents(folder.path)
    for attempt in (folder.create, folder.check_ownership, lambda: folder.write_end("failed", "x")):
        with pytest.raises(RunFolderError, match=f"{name}: not written by a run of fundamentallm"):
            attempt()
    assert contents(folder.path) == before


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_refuses_a_folder_of_other_files(
    words: Sequence[str], run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    for name, text in MINE.items():
        (tmp_path / name).write_text(text)
    before = contents(tmp_path)
    done = run(*words, *tiny_flags[:5], "--output-dir=.")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "not written by a run of fundamentallm; move it away" in done.stderr
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["samples.txt", "link to samples.txt"])
def test_a_run_does_not_overwrite_the_text_it_trains_on(
    name: str, run: Run, tiny_flags: list[str], tmp_path: Path
) -> None:
    """samples.txt is a run's own file, but it may also be the training text."""
    folder = tmp_path / "out"
    shutil.copytree(OLD_RUN, folder)
    (tmp_path / "link to samples.txt").symlink_to(folder / "samples.txt")
    text = tmp_path / name if "link" in name else folder / name
    before = contents(folder)
    for words in (["train", "--no-wandb"], ["find", "learning-rate"]):
        flags = tiny_flags[:5] if words[0] == "find" else tiny_flags
        done = run(*words, text, *flags, "--output-dir=out", "--overwrite")
        assert done.returncode == 2
        assert "the run would overwrite the text that it trains on" in done.stderr
    assert contents(folder) == before


def test_the_files_of_a_run_are_ours(tmp_path: Path) -> None:
    assert why_foreign(tmp_path) == ""
    assert why_foreign(OLD_RUN) == ""
    for name in ("run-0001", "run-0002"):
        assert why_foreign(ROOT / "tests/fixtures/0.1/tiny" / name) == ""


@pytest.mark.parametrize("name", [path.name for path in OLD_RUN.iterdir()])
def test_a_truncated_or_missing_file_of_a_run_is_ours(name: str, tmp_path: Path) -> None:
    """A kill, a full disk or a power cut truncates; summary.json and config.yaml stay whole."""
    shutil.copytree(OLD_RUN, tmp_path / "run")
    file = tmp_path / "run" / name
    whole = file.read_bytes()
    cut_short = name not in ("summary.json", "config.yaml")
    lengths = (20, len(whole) // 2, len(whole) - 1) if cut_short else ()
    if name.endswith(".pt"):
        lengths = lengths[1:]
    for left in (*(whole[:length] for length in lengths), b"", bytes(len(whole))):
        file.write_bytes(left)
        assert why_foreign(tmp_path / "run") == ""
    file.unlink()
    assert why_foreign(tmp_path / "run") == ""


def test_a_run_killed_at_its_start_is_ours(tmp_path: Path) -> None:
    """The kill comes after any of its files; its settings may be incomplete."""
    files: list[str] = []

    class Killed(RunFolder):
        """Run folder that raises before it writes file number `most`."""

        def write_config(self, settings: object) -> None:
            self.die_or(lambda: super(Killed, self).write_config(settings))  # pyright: ignore

        def write_summary(self, summary: object) -> None:
            self.die_or(lambda: super(Killed, self).write_summary(summary))  # pyright: ignore

        def append(self, file: Path, text: str) -> None:
            self.die_or(lambda: super(Killed, self).append(file, text))

        def die_or(self, write: object) -> None:
            if len(list(self.path.iterdir())) == most:
                raise KeyboardInterrupt
            write()  # pyright: ignore

    for settings in (COMPLETE, {}, {"seed": 1, "data": "x"}):
        steps = 8 if settings is COMPLETE else 0
        for most in range(3):
            folder = Killed(tmp_path / f"{len(settings)}-{most}")
            folder.create()
            with pytest.raises(KeyboardInterrupt):
                FolderTracker(folder).start(settings, total_steps=steps, step=0, facts={})
            files.append(" ".join(sorted(path.name for path in folder.path.iterdir())))
            assert why_foreign(folder.path) == ""
    assert files[:3] == ["", "summary.json", "config.yaml summary.json"]


def test_a_run_of_0_1_killed_at_its_start_is_ours(tmp_path: Path) -> None:
    shutil.copy(OLD_RUN / "config.yaml", tmp_path)
    assert why_foreign(tmp_path) == ""


@pytest.mark.parametrize(
    "summary",
    [
        {"status": "impossible", "stopped_by": "--model-dim 3: ...", "val_loss": 3.0},
        {"status": "refused", "stopped_by": "a reason"},
        {"status": "failed", "stopped_by": "a reason"},
    ],
)
def test_a_run_that_never_trained_is_ours(summary: dict[str, object], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_summary(summary)
    assert why_foreign(tmp_path) == ""
    folder.write_config({"learning_rate": 0.1, "data": "cats.txt"})
    assert why_foreign(tmp_path) == ""
    folder.config.write_text("data: cats.txt\nmine: 1\n")
    assert "config.yaml: not written by a run" in why_foreign(tmp_path)


def test_a_run_killed_while_it_is_cleared_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(OLD_RUN, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.wandb_id.write_text("me/cats/abc\n")
    seen: list[str] = []

    class Watched(HeldFolder):
        def remove(self, name: str) -> None:
            super().remove(name)
            seen.append(why_foreign(folder.path))

    monkeypatch.setattr("fundamentallm.files.run_folder.HeldFolder", Watched)
    folder.clear()
    assert len(seen) == 8
    assert not any(seen)
    assert not list(folder.path.iterdir())


def test_a_run_that_starts_over_stays_ours(tmp_path: Path) -> None:
    shutil.copytree(OLD_RUN, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.wandb_id.write_text("me/cats/abc\n")
    folder.clear(starts_over=True)
    assert {path.name for path in folder.path.iterdir()} == {"wandb-id.txt", "summary.json"}
    assert why_foreign(folder.path) == ""


def test_a_link_or_folder_in_place_of_a_file_is_foreign(tmp_path: Path) -> None:
    (tmp_path / "best.pt").symlink_to(tmp_path / "nowhere")
    assert "best.pt: a link, where fundamentallm has a file" in why_foreign(tmp_path)
    (tmp_path / "best.pt").unlink()
    (tmp_path / "last.pt").mkdir()
    assert "last.pt: not a file, where fundamentallm has a file" in why_foreign(tmp_path)


def test_an_altered_checkpoint_is_ours(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"anything" + MARK)
    assert why_foreign(tmp_path) == ""


def test_a_report_overwrites_only_reports(run: Run, tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"seed": 1}, [3.0, 2.0])
    mine = tmp_path / "a/report.html"
    mine.write_text("<h1>of mine</h1>")
    for words in (["a"], ["a", "--output=a/report.html"]):
        done = run("report", *words)
        assert done.returncode == 2
        assert "report.html: this file is not a fundamentallm report" in done.stderr
        assert mine.read_text() == "<h1>of mine</h1>"
    mine.write_text("")
    assert run("report", "a").returncode == 0
    assert run("report", "a").returncode == 0


def test_a_range_test_checks_the_report_before_it_clears(
    run: Run, text_file: Path, tmp_path: Path
) -> None:
    shutil.copytree(OLD_RUN, tmp_path / "out")
    (tmp_path / "out/report.html").write_text("mine")
    before = contents(tmp_path / "out")
    flags = ("--model-dim=16", "--num-layers=1", "--num-heads=2", "--output-dir=out", "--overwrite")
    done = run("find", "learning-rate", text_file, *flags)
    assert done.returncode == 2
    assert "report.html: this file is not a fundamentallm report" in done.stderr
    assert contents(tmp_path / "out") == before


def test_a_sweep_overwrites_no_file_of_others(run: Run, text_file: Path, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=1, seeds=1))
    out = tmp_path / "out"
    out.mkdir()
    (out / "sweep.yaml").write_text("# a sweep that is written by hand\n")
    words = ("sweep", "t.yaml", text_file, "--output-dir=out", "--", *FLAGS)
    before = contents(out)
    done = run(*words)
    assert done.returncode == 2
    assert "sweep.yaml: fundamentallm did not write it" in done.stderr
    assert contents(out) == before
    (out / "sweep.yaml").unlink()
    study = optuna.create_study(study_name="mine", storage=f"sqlite:///{out}/study.db")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    before = contents(out)
    for name in ("an Optuna study", "a database", "a file"):
        if name == "a database":
            (out / "study.db").unlink()
            with sqlite3.connect(out / "study.db") as database:
                database.execute("CREATE TABLE mine (x)")
        if name == "a file":
            (out / "study.db").write_text("mine, and longer than the header of a database is" * 9)
        before = contents(out)
        done = run(*words)
        assert done.returncode == 2, name
        assert "study.db: not the storage of a sweep" in done.stderr
        assert contents(out) == before


def test_a_sweep_killed_while_it_was_created_can_start(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.database.touch()
    folder.check_is_ours()
    with closing(sqlite3.connect(folder.database)) as database:  # as another process would
        database.execute("CREATE TABLE studies (study_id INTEGER)")
    folder.check_is_ours()
    folder.database.unlink()
    optuna.create_study(study_name="t", storage=folder.local_url)
    folder.check_is_ours()


def test_a_run_fails_if_its_folder_holds_foreign_files(
    run: Run, text_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=1, seeds=2))
    create = ("sweep", "t.yaml", text_file, "--count=0", "--", *FLAGS)
    assert run(*create).returncode == 0
    mine = tmp_path / "runs/t/run-0001"
    mine.mkdir()
    (mine / "summary.json").write_text(MINE["summary.json"])
    done = run("agent", "runs/t")
    assert done.returncode == 1
    assert "run-0001/summary.json: not written by a run of fundamentallm" in done.stderr
    assert contents(mine) == {"summary.json": MINE["summary.json"].encode()}
    assert summaries(tmp_path / "runs/t")["run-0002"]["status"] == "done"


def test_a_takeover_of_a_run_keeps_foreign_files(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "t")
    run = folder.create_run(0)
    run.write_summary({"status": "running", "total_steps": 8})
    run.last.write_bytes(MARK)
    (run.path / LOCK).touch()
    (run.path / "best.pt.part").write_text("of the process that is gone")
    (run.path / "notes.txt").write_text("mine")
    (run.path / "plots").mkdir()
    (run.path / "plots/a.png").write_text("mine too")
    folder.replace_run(0)
    names = {path.name for path in run.path.iterdir()}
    assert names == {"summary.json", "last.pt", "notes.txt", "plots"}
    assert (run.path / "plots/a.png").read_text() == "mine too"
    assert json.loads(run.summary.read_text())["total_steps"] == 8


def test_an_agent_does_not_overwrite_the_text_it_trains_on(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=1, seeds=1))
    (tmp_path / "cats.txt").write_text("step 1, temperature 0.6, prompt of 2 characters\n" + TEXT)
    assert run("sweep", "t.yaml", "cats.txt", "--count=0", "--", *FLAGS).returncode == 0
    folder = SweepFolder(tmp_path / "runs/t").create_run(0)
    folder.write_summary({"status": "running", "total_steps": 8})
    (tmp_path / "cats.txt").rename(folder.samples)
    before = folder.samples.read_text()
    done = run("agent", "runs/t", "--data", folder.samples)
    assert done.returncode == 1
    assert "the run would overwrite the text that it trains on" in done.stderr
    assert folder.samples.read_text() == before
