"""The service process of W&B's client may die at any time; no data is lost.

A scheduler that sends SIGTERM to every process of a job ends it before ours can react; so does the
kernel when memory runs out.
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


def job_processes(client: Client) -> list[int]:
    """Return every process with the client's environment, as a scheduler would find them."""
    pids: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"HOME={client.folder}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                pids.append(int(entry.name))
    return sorted(pids, reverse=True)  # children first


def services(client: Client) -> list[int]:
    """Return the service processes of W&B's client."""
    pids: list[int] = []
    for number in job_processes(client):
        with suppress(OSError):
            if b"wandb-core" in Path(f"/proc/{number}/cmdline").read_bytes():
                pids.append(number)
    return pids


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
    send(number, job_processes(client))
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output
    assert output.count("W&B's client failed") == 1
    assert "resume with: fundamentallm train --output-dir out --resume" in output
    run = client.only_run()
    assert (run.state, run.exit_code) == ("preempted", 128 + number)
    check_same(client.server, run, client.folder / "out")
    wait_for(lambda: job_processes(client) == [])


def test_killed_while_it_starts(client: Client, text_file: Path, tiny_flags: list[str]) -> None:
    """Alone, the client would wait for its service forever."""
    process = train(client, text_file, tiny_flags)
    wait_until(lambda: services(client), process)
    send(signal.SIGKILL, services(client))
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert "so this run stays on this machine" in output or client.only_run().state == "finished"


@pytest.mark.nightly
@pytest.mark.parametrize("seconds", [1.0, 2.0, 3.0, 4.0, 6.0])
def test_at_any_moment_of_the_start(
    client: Client, text_file: Path, tiny_flags: list[str], seconds: float
) -> None:
    process = train(client, text_file, tiny_flags, *UNENDING)
    time.sleep(seconds)
    send(signal.SIGTERM, job_processes(client))
    output, _ = process.communicate(timeout=100)
    assert process.returncode in (143, -signal.SIGTERM), output
    assert "Traceback" not in output
    if (client.folder / "out/summary.json").exists():
        assert "resume with: fundamentallm train --output-dir out --resume" in output
        Checkpoint.load(client.folder / "out/last.pt")


def test_killed_during_a_run_it_is_restarted(
    client: Client, text_file: Path, tiny_flags: list[str]
) -> None:
    process = train(client, text_file, tiny_flags, "--max-steps=1500")
    wait_until(lambda: client.server.store.runs and len(client.only_run().history) > 3, process)
    send(signal.SIGKILL, services(client))
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert output.count("W&B's client failed") == 1
    assert client.only_run().state == "finished"
    check_same(client.server, client.only_run(), client.folder / "out")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.3, nightly(2.0)])
def test_killed_too_often_it_is_abandoned_with_a_message(
    client: Client, text_file: Path, tiny_flags: list[str], seconds: float
) -> None:
    process = train(client, text_file, tiny_flags, *UNENDING, "--eval-every=500")
    rows = client.folder / "out/metrics.jsonl"
    wait_until(rows.exists, process)
    for _ in range(4):  # RESTARTS + 1
        wait_until(lambda: services(client), process)
        time.sleep(seconds)
        send(signal.SIGKILL, services(client))
    before = rows.stat().st_size
    wait_until(lambda: rows.stat().st_size > before + 2000, process)  # training continues
    assert services(client) == []
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert output.count("and is started again") == 3
    assert output.count("the run continues, and is sent at its end") == 1
    assert "is kept; send it with" not in output
    check_same(client.server, client.only_run(), client.folder / "out")
    client.train("--output-dir=out", "--resume", f"--max-steps={steps(rows) + 20}")
    check_same(client.server, client.only_run(), client.folder / "out")


COLLECT_DEAD_CONNECTION = """
from wandb.proto import wandb_server_pb2 as messages
from wandb.sdk import wandb_setup
from fundamentallm.trackers import wandb_client

wandb_client.start()
connection = wandb_setup.singleton()._connection
wandb_client.kill()
assert wandb_client.is_gone(wait=60)
sender = connection._finalizer._thread
while sender.is_alive():  # until the client notices
    connection.finalize(set(), messages.ServerRequest())
    sender.join(0.01)
print("it has ended")
wandb_client.end()
"""


def test_collecting_a_dead_connection_leaves_no_traceback(client: Client) -> None:
    output = client.run(sys.executable, "-c", COLLECT_DEAD_CONNECTION).stdout
    assert "it has ended" in output
    assert "Traceback" not in output


def steps(rows: Path) -> int:
    return json.loads(rows.read_text().splitlines()[-1])["step"]


@pytest.mark.nightly
def test_killed_at_the_end_of_a_run(client: Client, text_file: Path, tiny_flags: list[str]) -> None:
    client.server.delay = 0.3  # long enough to hit the end
    process = train(client, text_file, tiny_flags, "--max-steps=200")
    summary = client.folder / "out/summary.json"
    wait_until(lambda: summary.exists() and '"done"' in summary.read_text(), process)
    send(signal.SIGKILL, services(client))
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert output.count("W&B's client failed") <= 1
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
    send(signal.SIGTERM, job_processes(client))
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 143, output
    assert "resume with: fundamentallm agent runs/g" in output
    for number in (1, 2):
        folder = client.folder / f"runs/g/run-000{number}"
        assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
        assert "Traceback" not in (folder / "output.txt").read_text()
        Checkpoint.load(folder / "last.pt")
    wait_for(lambda: job_processes(client) == [])
    for run in client.server.store.runs.values():
        assert run.state == "preempted"
