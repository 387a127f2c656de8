"""The process that W&B's client sends through dies at any moment, and nothing is lost.

A scheduler's SIGTERM to every process of a job ends it before ours has said a word; so does the
system where memory runs out.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT, nightly
from tiny_sweep import FLAGS, grid, wait_for
from wandb_client import Client, check_same, wait_until
from wandb_server import WandbServer

from fundamentallm.training.checkpoint import Checkpoint


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with WandbServer() as server:
        yield Client(server, tmp_path)
        assert server.refused == []


def job(client: Client) -> list[int]:
    """Every process that was started in the client's environment, as a scheduler finds them."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"HOME={client.folder}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return sorted(found, reverse=True)  # children first


def services(client: Client) -> list[int]:
    """The processes of W&B's client alone."""
    found: list[int] = []
    for number in job(client):
        with suppress(OSError):
            if b"wandb-core" in Path(f"/proc/{number}/cmdline").read_bytes():
                found.append(number)
    return found


def send(number: signal.Signals, processes: list[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def train(
    client: Client, text_file: Path, tiny_flags: list[str], *more: str
) -> subprocess.Popen[str]:
    words = [sys.executable, ROOT / "train.py", text_file, *tiny_flags, "--output-dir=out", *more]
    return client.popen(*words)


UNENDING = ("--max-steps=1000000", "--epochs=1000000")


@pytest.mark.parametrize("number", [signal.SIGTERM, nightly(signal.SIGHUP)])
def test_a_signal_to_every_process_of_the_job(
    client: Client, text_file: Path, tiny_flags: list[str], number: signal.Signals
) -> None:
    process = train(client, text_file, tiny_flags, *UNENDING)
    wait_until(lambda: client.server.store.runs and len(client.only_run().history) > 3, process)
    send(number, job(client))
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said
    assert said.count("W&B's client failed") == 1
    assert "resume with: fundamentallm train --output-dir out --resume" in said
    run = client.only_run()
    assert (run.state, run.exit_code) == ("preempted", 128 + number)
    check_same(client.server, run, client.folder / "out")
    wait_for(lambda: job(client) == [])


def test_killed_before_it_has_begun(client: Client, text_file: Path, tiny_flags: list[str]) -> None:
    """The client alone would wait for itself for ever."""
    process = train(client, text_file, tiny_flags)
    wait_until(lambda: services(client), process)
    send(signal.SIGKILL, services(client))
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert "so this run stays on this machine" in said or client.only_run().state == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [2.0, nightly(1.0), nightly(3.0), nightly(4.0), nightly(6.0)])
def test_at_any_moment_of_the_start(
    client: Client, text_file: Path, tiny_flags: list[str], seconds: float
) -> None:
    process = train(client, text_file, tiny_flags, *UNENDING)
    time.sleep(seconds)
    send(signal.SIGTERM, job(client))
    said, _ = process.communicate(timeout=100)
    assert process.returncode in (143, -signal.SIGTERM), said
    assert "Traceback" not in said
    if (client.folder / "out/summary.json").exists():
        assert "resume with: fundamentallm train --output-dir out --resume" in said
        Checkpoint.load(client.folder / "out/last.pt")


def test_killed_in_mid_run_it_is_started_again(
    client: Client, text_file: Path, tiny_flags: list[str]
) -> None:
    process = train(client, text_file, tiny_flags, "--max-steps=1500")
    wait_until(lambda: client.server.store.runs and len(client.only_run().history) > 3, process)
    send(signal.SIGKILL, services(client))
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert said.count("W&B's client failed") == 1
    assert client.only_run().state == "finished"
    check_same(client.server, client.only_run(), client.folder / "out")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.3, nightly(2.0)])
def test_killed_again_and_again_it_is_given_up_and_says_what_is_left(
    client: Client, text_file: Path, tiny_flags: list[str], seconds: float
) -> None:
    process = train(client, text_file, tiny_flags, *UNENDING, "--eval-every=500")
    rows = client.folder / "out/metrics.jsonl"
    wait_until(rows.exists, process)
    for _ in range(4):  # RESTARTS, and once more
        wait_until(lambda: services(client), process)
        time.sleep(seconds)
        send(signal.SIGKILL, services(client))
    before = rows.stat().st_size
    wait_until(lambda: rows.stat().st_size > before + 2000, process)  # it trains on
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert last.startswith("W&B's client failed (")
    assert "; the whole run is in its own folder" in last
    client.train("--output-dir=out", "--resume", f"--max-steps={steps(rows) + 20}")
    check_same(client.server, client.only_run(), client.folder / "out")


LEFT_TO_THE_COLLECTOR = """
from wandb.proto import wandb_server_pb2 as messages
from fundamentallm.trackers import wandb_service

connection = wandb_service.started()._connection
wandb_service._kill()
assert wandb_service.is_gone(within=60)
sender = connection._finalizer._thread
while sender.is_alive():  # until the client has noticed
    connection.finalize(set(), messages.ServerRequest())
    sender.join(0.01)
print("it has ended")
wandb_service.let_go()
"""


def test_what_the_garbage_collector_finds_afterwards_leaves_no_traceback(client: Client) -> None:
    said = client.run(sys.executable, "-c", LEFT_TO_THE_COLLECTOR).stdout
    assert "it has ended" in said
    assert "Traceback" not in said


def steps(rows: Path) -> int:
    return json.loads(rows.read_text().splitlines()[-1])["step"]


@pytest.mark.slow
def test_killed_while_the_run_ends(client: Client, text_file: Path, tiny_flags: list[str]) -> None:
    client.server.delay = 0.3  # so that there is such a moment
    process = train(client, text_file, tiny_flags, "--max-steps=200")
    summary = client.folder / "out/summary.json"
    wait_until(lambda: summary.exists() and '"done"' in summary.read_text(), process)
    send(signal.SIGKILL, services(client))
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert said.count("W&B's client failed") <= 1
    assert client.only_run().state == "finished"
    check_same(client.server, client.only_run(), client.folder / "out")


@pytest.mark.slow
def test_a_signal_to_every_process_of_a_sweep(client: Client, text_file: Path) -> None:
    (client.folder / "g.yaml").write_text(
        grid(2, 1, steps=1_000_000) + "  epochs: {value: 99999}\n"
    )
    words = ("fundamentallm", "sweep", "g.yaml", text_file, "--workers", "2")
    process = client.popen(*words, "--wandb", "online", "--", *FLAGS)
    wait_until(
        lambda: [len(run.history) > 3 for run in client.server.store.runs.values()] == [True] * 2,
        process,
    )
    send(signal.SIGTERM, job(client))
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 143, said
    assert "resume with: fundamentallm agent runs/g" in said
    for number in (1, 2):
        folder = client.folder / f"runs/g/run-000{number}"
        assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
        assert "Traceback" not in (folder / "output.txt").read_text()
        Checkpoint.load(folder / "last.pt")
    wait_for(lambda: job(client) == [])
    for run in client.server.store.runs.values():
        assert run.state == "preempted"
