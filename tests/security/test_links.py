"""Links and pipes in an untrusted folder: nothing outside is read, written or removed."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, TEXT
from tiny_sweep import FLAGS, grid

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data import token_cache
from fundamentallm.data.dataset import prepare
from fundamentallm.data.text import Text
from fundamentallm.errors import FundamentallmError
from fundamentallm.files.atomic import DiskError
from fundamentallm.files.held_folder import HeldFolder
from fundamentallm.files.run_folder import RunFolder, RunFolderError
from fundamentallm.sweep.engine.disk_wait import DiskWait
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.store.sqlite_file import OwnFile
from fundamentallm.sweep.store.sweep_folder import SweepFolder
from fundamentallm.training.checkpoint import Checkpoint
from fundamentallm.training.loop import train
from fundamentallm.training.run import Resume, load_or_clear
from fundamentallm.warning_lines import print_warnings

OLD = time.time() - 3 * 24 * 3600
LINKS = {  # path in a sweep's folder: target below the home folder
    "run-0002/output.txt": ".bashrc",
    "run-0002/last.pt": "new-album/photo",
    "run-0002/config.yaml.part": "nowhere",
    "run-0001/metrics.jsonl": ".bashrc",
    "run-0001/wandb-sweep.yaml": ".bashrc",
    "run-0001/.lock": ".bashrc",
    "run-0002": "",
    ".run-0002-left-1": "",
    ".run-0002-part-1": "new-album",
    "tokens": "",
    "tokens/new-1": "new-album",
    "tokens/x.json": "nowhere",
    "workers": "",
    "workers/x.lock": "nowhere",
    "wandb": "",
    "wandb/run-1": "",
    "wandb/offline-run-1-x/tmp": "",
    "study.db": "bank.db",
    "study.db-wal": "nowhere",
    "study.db-journal": "nowhere",
    "sweep.yaml": ".bashrc",
    "storage.txt": ".bashrc",
    "ledger.lock": "nowhere",
    "report.html": "nowhere",
    "notes.md": ".bashrc",
}
COMMANDS = (
    *("agent", "report", "explain", "next", "refine --max-steps=20", "compare"),
    *("generate", "export --csv"),
)


def snapshot(folder: Path) -> dict[str, tuple[int, float, bytes]]:
    """Return the mode, time and content of everything in a folder."""
    entries: dict[str, tuple[int, float, bytes]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        entries[str(path.relative_to(folder))] = status.st_mode, status.st_mtime, content
    return entries


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Home folder with files that an attacker would like to change."""
    folder = tmp_path / "home"
    (folder / "new-album").mkdir(parents=True)
    (folder / "new-album/photo").write_text("a photo")
    (folder / ".bashrc").write_text("alias ls='ls -l'\n")
    with closing(sqlite3.connect(folder / "bank.db")) as bank:
        bank.execute("CREATE TABLE accounts (owner TEXT)")
        bank.commit()
    for path in (folder / "new-album/photo", folder / "new-album"):
        os.utime(path, (OLD, OLD))
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a sweep of two runs, one of them done."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "t.yaml").write_text(grid(rates=1, seeds=2))
    (folder / "cats.txt").write_text(TEXT)
    shutil.copy2(ROOT / "train.py", folder)
    words = ["sweep", "t.yaml", "cats.txt", "--count=1", "--workers=1", "--", *FLAGS]
    done = subprocess.run(
        [sys.executable, "-m", "fundamentallm", *words],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (folder / "runs/t/run-0001/summary.json").exists(), done.stderr
    return folder


@pytest.fixture
def command(original: Path, home: Path, tmp_path: Path) -> Callable[[str], tuple[int, str]]:
    """Run a command on a copy of the sweep; return its exit code and stderr."""
    shutil.copytree(original, tmp_path / "work")

    def call(words: str) -> tuple[int, str]:
        verb, *flags = words.split()
        done = subprocess.run(
            [sys.executable, "-m", "fundamentallm", verb, "runs/t", *flags],
            cwd=tmp_path / "work", capture_output=True, text=True, check=False,
            env={**os.environ, "HOME": str(home)},
        )  # fmt: skip
        return done.returncode, done.stderr

    return call


def plant(name: str, sweep: Path, target: Path) -> None:
    """Replace the entry `name` by a link."""
    path = sweep / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def is_refused(name: str, result: tuple[int, str]) -> bool:
    code, message = result
    return code == 2 and message.count("\n") == 1 and f"t/{name}: " in message


@pytest.mark.parametrize("name", LINKS)
def test_an_agent_refuses_a_folder_with_a_link(
    name: str, command: Callable[[str], tuple[int, str]], home: Path, tmp_path: Path
) -> None:
    sweep = tmp_path / "work/runs/t"
    plant(name, sweep, home / LINKS[name])
    before = snapshot(home), snapshot(sweep)
    result = command("agent")
    assert is_refused(name, result), result
    assert (snapshot(home), snapshot(sweep)) == before


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize("name", ["run-0001/metrics.jsonl", "tokens"])
def test_every_command_refuses_a_folder_with_a_link(
    words: str,
    name: str,
    command: Callable[[str], tuple[int, str]],
    home: Path,
    tmp_path: Path,
) -> None:
    sweep = tmp_path / "work/runs/t"
    plant(name, sweep, home / LINKS[name])
    before = snapshot(home), snapshot(sweep)
    result = command(words)
    assert is_refused(name, result), result
    assert (snapshot(home), snapshot(sweep)) == before


@pytest.mark.parametrize("words", ["agent", "report"])
@pytest.mark.parametrize("name", ["run-0001/metrics.jsonl", "sweep.yaml", "study.db", "workers"])
def test_a_pipe_in_place_of_a_file_is_refused_at_once(
    words: str, name: str, command: Callable[[str], tuple[int, str]], tmp_path: Path
) -> None:
    path = tmp_path / "work/runs/t" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    os.mkfifo(path)
    assert is_refused(name, command(words))


def test_links_in_the_path_to_a_sweep_are_followed(
    command: Callable[[str], tuple[int, str]], tmp_path: Path
) -> None:
    runs = tmp_path / "work/runs"
    (runs / "t").rename(tmp_path / "elsewhere")
    (runs / "t").symlink_to(tmp_path / "elsewhere")
    code, message = command("agent")
    assert code == 0, message
    assert (tmp_path / "elsewhere/run-0002/summary.json").exists()


def test_a_database_of_another_program_gets_no_tables(
    command: Callable[[str], tuple[int, str]], home: Path, tmp_path: Path
) -> None:
    database = tmp_path / "work/runs/t/study.db"
    shutil.copy2(home / "bank.db", database)
    before = database.read_bytes()
    code, message = command("agent")
    assert code == 2
    assert "study.db: not the storage of a sweep" in message
    assert database.read_bytes() == before


def test_single_runs_with_links_are_refused(home: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.write_summary({"status": "done", "total_steps": 1})
    for name in ("metrics.jsonl", "config.yaml", "best.pt", "samples.txt.part"):
        (folder.path / name).symlink_to(home / ".bashrc")
        with pytest.raises(RunFolderError, match=f"{name}: a link, where fundamentallm has a file"):
            folder.create()
        (folder.path / name).unlink()


# The tests below bypass the checks: a link replaces a file after them.


def test_no_file_of_a_run_is_written_or_read_through_a_link(home: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    before = snapshot(home)
    for file in (folder.metrics, folder.samples, folder.config, folder.summary):
        file.symlink_to(home / ".bashrc")
    with pytest.raises(DiskError, match="a link, which is not followed"):
        folder.append(folder.metrics, "evil")
    with pytest.raises(RunFolderError, match="a link, which is not followed"):
        folder.read_config()
    assert folder.metric_lines() == []
    folder.write_summary({"status": "done"})
    assert not folder.summary.is_symlink()
    assert snapshot(home) == before


def test_no_run_of_a_sweep_is_written_or_read_in_a_linked_folder(
    home: Path, tmp_path: Path
) -> None:
    sweep = SweepFolder(tmp_path / "t")
    sweep.create()
    run = sweep.run(0)
    run.path.symlink_to(home)
    before = snapshot(home)
    for operation in (
        lambda: sweep.create_run(0),
        lambda: run.write_summary({"status": "done"}),
        lambda: run.append(run.metrics, "evil"),
        lambda: run.clear(),
        lambda: run.write_end("failed", "x"),
    ):
        with pytest.raises(FundamentallmError, match="run-0001"):
            operation()
    assert run.read_summary() == {}
    assert snapshot(home) == before


@pytest.mark.parametrize("left", ["run-0001", ".run-0001-left-1", ".run-0001-part-1"])
def test_a_takeover_of_a_run_follows_no_link(left: str, home: Path, tmp_path: Path) -> None:
    sweep = SweepFolder(tmp_path / "t")
    sweep.create()
    (sweep.path / left).symlink_to(home)
    before = snapshot(home)
    with suppress(OSError):
        sweep.replace_run(0)
    assert snapshot(home) == before


def test_the_token_cache_follows_no_link(home: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").symlink_to(home)
    before = snapshot(home)
    parts = {"train": iter([np.zeros(5, np.uint8)]), "val": iter([np.zeros(5, np.uint8)])}
    assert not token_cache.keep(tmp_path / "tokens", "x", parts)
    assert snapshot(home) == before
    (tmp_path / "tokens").unlink()
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens/new-1").symlink_to(home)
    os.utime(tmp_path / "tokens/new-1", (OLD, OLD), follow_symlinks=False)
    parts = {"train": iter([np.zeros(5, np.uint8)]), "val": iter([np.zeros(5, np.uint8)])}
    assert token_cache.keep(tmp_path / "tokens", "x", parts)
    assert snapshot(home) == before
    assert token_cache.load(tmp_path / "tokens", "x") is not None
    (tmp_path / "tokens/x.json").rename(home / "x.json")
    (tmp_path / "tokens/x.json").symlink_to(home / "x.json")
    assert token_cache.load(tmp_path / "tokens", "x") is None


def test_sqlite_opens_no_other_database(home: Path, tmp_path: Path) -> None:
    (tmp_path / "study.db").symlink_to(home / "bank.db")
    with pytest.raises(SweepError, match=r"study.db: a link"):
        sqlite3.connect(tmp_path / "study.db", factory=OwnFile)


def test_the_file_that_sqlite_opened_is_checked(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study.db").symlink_to(home / "bank.db")
    monkeypatch.setattr("fundamentallm.sweep.store.sqlite_file.why_misplaced", lambda *_, **__: "")
    before = snapshot(home)
    with pytest.raises(SweepError, match="replaced by a link while it was opened"):
        sqlite3.connect(tmp_path / "study.db", factory=OwnFile)
    assert snapshot(home) == before


def test_a_probe_of_the_disk_follows_no_link(home: Path, tmp_path: Path) -> None:
    (tmp_path / f".writable-{os.getpid()}").symlink_to(home / ".bashrc")
    before = snapshot(home)
    DiskWait(tmp_path, 1, print).probe()
    assert snapshot(home) == before


@pytest.fixture
def swapping(home: Path, tmp_path: Path) -> Iterator[Path]:
    """Sweep folder in which a thread swaps a run's folder and its metrics.jsonl with links."""
    sweep = tmp_path / "t"
    (sweep / "run-0001").mkdir(parents=True)
    (sweep / "file link").symlink_to(home / ".bashrc")
    (sweep / "folder link").symlink_to(home / "new-album")
    is_over = threading.Event()

    def swap() -> None:
        file, folder = sweep / "run-0001/metrics.jsonl", sweep / "run-0001"
        while not is_over.is_set():
            with suppress(OSError):
                file.touch()
                os.rename(file, sweep / "kept")
                os.rename(sweep / "file link", file)
                time.sleep(0)
                os.rename(file, sweep / "file link")
                os.rename(sweep / "kept", file)
                os.rename(folder, sweep / "run kept")
                os.rename(sweep / "folder link", folder)
                time.sleep(0)
                os.rename(folder, sweep / "folder link")
                os.rename(sweep / "run kept", folder)

    thread = threading.Thread(target=swap)
    thread.start()
    yield sweep
    is_over.set()
    thread.join()


def test_swapped_links_are_never_followed(swapping: Path, home: Path) -> None:
    before = snapshot(home)
    run = SweepFolder(swapping).run(0)
    written = refused = 0
    while not (written > 100 and refused > 100):
        try:
            run.append(run.metrics, "evil\n")
            run.write_summary({"status": "done"})
            written += 1
        except DiskError:
            refused += 1
    assert snapshot(home) == before


def test_text_of_a_checkpoint_is_logged_in_one_line(
    tmp_path: Path,
    tiny: Config,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("fundamentallm"), "handlers", [])
    print_warnings()
    dataset = prepare(Text.of(TEXT, "cats.txt"), tiny)
    folder = RunFolder(tmp_path)
    evil = {"name": "x\ntouch evil\n\x1b[2J", "sha256": "0" * 64}
    train(tiny, dataset, folder=folder, trackers=[], device="cpu", stop_requested=lambda: "")
    replace(Checkpoint.load(folder.last), data=evil).save(folder.last)
    capfd.readouterr()
    assert load_or_clear(folder, tiny, dataset, Resume.IF_POSSIBLE) is None
    message = capfd.readouterr().err
    assert message.startswith("warning: ")
    assert message.count("\n") == 1
    assert "\x1b" not in message


def test_errors_of_a_held_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    with HeldFolder(tmp_path) as folder:
        for name, mode, why in [
            ("folder", "rb", "Is a directory"),
            ("link", "rb", "a link, which is not followed"),
            ("link", "ab", "a link, which is not followed"),
            ("pipe", "rb", "Not a regular file"),
            ("pipe", "ab", "Not a regular file"),
            ("missing", "rb", "No such file"),
            ("pipe", "xb", "File exists"),
        ]:
            with pytest.raises(OSError, match=why):
                folder.open(name, mode)
        with pytest.raises(OSError, match="a link, which is not followed"):
            HeldFolder(tmp_path / "link", tmp_path)
    assert HeldFolder(tmp_path / "link").handle is not None
