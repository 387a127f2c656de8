"""`wandb sync` of a sweep's folder: each run once, in its group, with all that it logged."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_environments import NIGHTLY, environment
from offline_program import run
from wandb_client import Client
from wandb_server import WandbServer

from fundamentallm.files.run_folder import RunFolder
from fundamentallm.sweep.program.detached_log import detach
from fundamentallm.sweep.program.log_records import TransactionLogError
from fundamentallm.sweep.program.transaction_log import TransactionLogs

PROGRAM = """
import wandb
run = wandb.init(notes="why")
run.name = "renamed"
for i in range(3):
    run.log({"loss": i / run.config.width})
print("done")
"""

SWEEP = """
program: p.py
name: lr
method: grid
metric: {name: loss, goal: minimize}
parameters: {width: {values: [8, 16]}}
"""
KILLED_ONCE = """
import os, pathlib, signal, time
ran = pathlib.Path(os.environ["FUNDAMENTALLM_RUN_DIR"], "ran")
if run.config.width == 16 and not ran.exists():
    ran.touch()
    time.sleep(2.5)  # the client writes its log every second
    os.killpg(0, signal.SIGKILL)
"""
"""End of a program that is killed in one of its runs."""


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with WandbServer() as server:
        yield Client(server, tmp_path)


def run_once(folder: Path, run_id: str, width: object = 8, **environment: str) -> TransactionLogs:
    """Run the program offline as a run of the local sweep `s1`, and detach its log."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"width": width, "text": "x" * 100_000}  # longer than a block of the log
    names = {"WANDB_PROJECT": "p", "WANDB_RUN_GROUP": "lr"}
    run(PROGRAM, folder, run_id, config, **names, **environment)
    logs = TransactionLogs(folder, run_id)
    logged = logs.finish(60)
    logs.detach("s1")
    again = TransactionLogs(folder, run_id)
    assert again.finish(60) == logged
    return logs


@pytest.mark.slow
def test_each_run_is_there_once_however_often_it_is_sent(client: Client) -> None:
    sweep = client.folder / "runs/lr"
    for number, width in enumerate((8, 16)):
        run_once(sweep / f"run-{number}", f"r{number}", width)
    for _ in range(2):
        client.run("wandb", "sync", *sorted(sweep.glob("run-*/wandb/offline-run-*")))
    runs = client.server.store.runs
    assert sorted(runs) == [("p", "r0"), ("p", "r1")]
    for (_, name), width in (("p", "r0"), 8), (("p", "r1"), 16):
        sent = runs["p", name]
        assert (sent.group, sent.display_name, sent.state) == ("lr", "renamed", "finished")
        assert (sent.sweep, sent.starts, sent.repeated) == (None, 1, [])
        assert sent.rows() == [{"step": i, "loss": i / width} for i in range(3)]
        assert sent.values["width"] == width
    assert client.server.refused == []


@pytest.mark.slow
def test_a_sweep_with_a_killed_attempt(client: Client) -> None:
    (client.folder / "p.py").write_text(PROGRAM + KILLED_ONCE)
    (client.folder / "s.yaml").write_text(SWEEP)
    output = client.run("fundamentallm", "sweep", "s.yaml").stdout
    assert "restarts" in output
    folders = sorted((client.folder / "runs/lr").glob("run-*"))
    for _ in range(2):
        logs = sorted(client.folder.glob("runs/lr/run-*/wandb/offline-run-*"))
        client.run("wandb", "sync", *logs)
    sent = list(client.server.store.runs.values())
    assert client.server.refused == []
    assert [(run.group, run.starts, run.repeated) for run in sent] == [("lr", 1, [])] * 2
    rows_of_runs = [list(RunFolder(folder).rows()) for folder in folders]
    for width, rows in zip((8, 16), rows_of_runs, strict=True):
        assert rows == [{"step": i, "loss": i / width} for i in range(3)]
    by_width = sorted(sent, key=lambda run: run.values["width"])
    assert [run.rows() for run in by_width] == rows_of_runs


@pytest.mark.nightly
@pytest.mark.parametrize("version", NIGHTLY)
def test_a_sweep_with_another_client(tmp_path: Path, version: str) -> None:
    """The program's client writes the logs and sends them; ours may be of another version."""
    python = environment(version)
    with WandbServer() as server:
        client = Client(server, tmp_path, python)
        (tmp_path / "p.py").write_text(PROGRAM)
        (tmp_path / "s.yaml").write_text(SWEEP)
        client.run(sys.executable, "-m", "fundamentallm", "sweep", "s.yaml")
        for folder, width in zip(sorted(tmp_path.glob("runs/lr/run-*")), (8, 16), strict=True):
            run = RunFolder(folder)
            assert list(run.rows()) == [{"step": i, "loss": i / width} for i in range(3)]
            assert run.read_summary()["summary"]["loss"] == 2 / width
        for _ in range(2):
            client.run("wandb", "sync", *tmp_path.glob("runs/lr/run-*/wandb/offline-run-*"))
        assert server.refused == []
        sent = sorted(server.store.runs.values(), key=lambda run: run.values["width"])
        assert [run.values["width"] for run in sent] == [8, 16]
        for run, width in zip(sent, (8, 16), strict=True):
            assert (run.group, run.display_name, run.state) == ("lr", "renamed", "finished")
            assert run.rows() == [{"step": i, "loss": i / width} for i in range(3)]
            assert run.repeated == []


@pytest.mark.slow
def test_a_log_that_the_program_put_elsewhere_is_sent(client: Client) -> None:
    folder = client.folder / "run"
    folder.mkdir()
    logs = TransactionLogs(folder, "r1", working_folder=client.folder)
    code = PROGRAM.replace("notes=", "dir='..', notes=")
    run(code, folder, "r1", {"width": 8}, WANDB_PROJECT="p")
    logs.finish(60)
    logs.detach("s1")
    for _ in range(2):
        client.run("wandb", "sync", *folder.glob("wandb/offline-run-*"))
    assert client.only_run().rows() == [{"step": i, "loss": i / 8} for i in range(3)]
    assert client.only_run().starts == 1


@pytest.mark.slow
def test_a_resumed_run_follows_its_first_part(client: Client) -> None:
    folder = client.folder / "run"
    run_once(folder, "r1")
    run_once(folder, "r1", WANDB_RESUME="allow")
    client.run("wandb", "sync", *sorted(folder.glob("wandb/offline-run-*")))
    sent = client.only_run()
    assert sent.rows() == [{"step": i, "loss": i % 3 / 8} for i in range(6)]
    assert sent.repeated == []


def test_a_log_that_names_a_local_sweep_is_refused(client: Client) -> None:
    folder = client.folder / "run"
    folder.mkdir()
    run(PROGRAM, folder, "r1", {"width": 8})
    client.run("wandb", "sync", *folder.glob("wandb/offline-run-*"), code=None)
    assert set(client.server.refused) == {"sweep s1 not found"}
    assert not client.server.store.runs


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_other_content_stays_as_it_is(tmp_path: Path, share: float) -> None:
    """A log of another sweep, cut short, with bytes of another layout at its end."""
    run_once(tmp_path, "r1")
    (log,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    odd = tmp_path / "odd.wandb"
    shutil.copy(log, odd)
    with odd.open("r+b") as file:
        file.truncate(int(log.stat().st_size * share))
        file.seek(0, 2)
        file.write(b"\xff" * 50)
    before = odd.read_bytes()
    for name in ("s1", "s2"):
        detach(odd, name)
    assert odd.read_bytes() == before


def test_a_file_of_another_layout_stays_as_it_is(tmp_path: Path) -> None:
    odd = tmp_path / "odd.wandb"
    odd.write_bytes(b"b\x02s1" * 1000)
    with pytest.raises(TransactionLogError, match="not a transaction log"):
        detach(odd, "s1")
    assert odd.read_bytes() == b"b\x02s1" * 1000
