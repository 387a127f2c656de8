"""`fundamentallm sync`: what W&B lacks of ended runs is sent, no row twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_sweep import FLAGS, grid
from wandb_client import Client, check_same
from wandb_server import WandbServer


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with WandbServer() as server:
        yield Client(server, tmp_path)
        assert server.refused == []


@pytest.mark.nightly
def test_runs_of_a_sweep_that_w_and_b_never_saw(client: Client, text_file: Path) -> None:
    (client.folder / "g.yaml").write_text(grid(2, 1, steps=20))
    client.server.down()
    words = ("fundamentallm", "sweep", "g.yaml", text_file, "--workers", "1")
    client.run(*words, "--wandb", "online", "--", *FLAGS)
    assert client.server.store.runs == {}
    client.server.up()
    for _ in range(2):  # the second time there is nothing left to send
        done = client.run("fundamentallm", "sync", "runs/g")
        assert done.stdout.count("W&B has the whole run") == 2
        runs = list(client.server.store.runs.values())
        assert len(runs) == 2
        assert {run.state for run in runs} == {"finished"}
        for number in (1, 2):
            folder = client.folder / f"runs/g/run-000{number}"
            run_id = (folder / "wandb-id.txt").read_text().strip().rpartition("/")[2]
            (run,) = (run for run in runs if run.name == run_id)
            check_same(client.server, run, folder)
    none = client.run("fundamentallm", "sync", "runs/g/run-0099", code=2)
    assert "runs/g/run-0099: no run that has ended was found" in none.stdout
    client.server.store.runs.clear()
    (client.folder / "runs/g/run-0001/config.yaml").write_text("a: [b\n")
    damaged = client.run("fundamentallm", "sync", "runs/g", code=2)
    assert damaged.stdout.count("config.yaml") == 1
    assert len(client.server.store.runs) == 1, damaged.stdout  # the other is sent
    (run,) = client.server.store.runs.values()
    assert run.name in (client.folder / "runs/g/run-0002/wandb-id.txt").read_text()


@pytest.mark.slow
def test_folders_that_cannot_be_sent(
    client: Client, text_file: Path, tiny_flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client.train(text_file, *tiny_flags, "--output-dir=out", "--no-wandb")
    none = client.run("fundamentallm", "sync", "nothing", code=2)
    assert "nothing: no run found; give the folder of a run or a sweep" in none.stdout
    (client.folder / "out/summary.json").write_text('{"status": "running"}')
    running = client.run("fundamentallm", "sync", "out", code=2)
    assert "this run has not ended; resume it" in running.stdout
    (client.folder / "out/summary.json").write_text('{"status": "done", "step": 24}')
    (client.folder / "out/wandb-id.txt").write_text("others/theirs/abc\n")
    theirs = client.run("fundamentallm", "sync", "out", code=1)
    assert "no record on this machine says that you started it" in theirs.stdout
    assert client.server.store.runs == {}
