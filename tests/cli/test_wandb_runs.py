"""A local sweep's runs on W&B, with the real client and `wandb sync`, against the test server."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_sweep import FLAGS, grid
from wandb_client import Client, check_same
from wandb_server import WandbServer

pytestmark = pytest.mark.slow


@pytest.mark.nightly
def test_offline_runs_are_one_group_once_synced(tmp_path: Path, text_file: Path) -> None:
    (tmp_path / "g.yaml").write_text(grid(2, 1) + "project: shelf\n")
    with WandbServer() as server:
        client = Client(server, tmp_path)
        command = ("fundamentallm", "sweep", "g.yaml", text_file)
        client.run(*command, "--", *FLAGS)
        assert not (tmp_path / "runs/g/wandb").exists()  # not unless it is asked for
        out = ("--output-dir", "out", "--wandb", "offline", "--", *FLAGS)
        client.run(*command, *out)
        assert server.store.runs == {}
        left = sorted((tmp_path / "out/wandb").glob("offline-run-*"))
        assert len(left) == 2
        client.run("wandb", "sync", *left)
        runs = {run.display_name: run for run in server.store.runs.values()}
        assert sorted(runs) == ["lr1e-3", "lr2e-3"]
        assert {run.group for run in runs.values()} == {"g"}
        assert {run.project for run in runs.values()} == {"shelf"}
        for name, run in runs.items():
            check_same(server, run, tmp_path / f"out/run-000{name[2]}", synced=True)


@pytest.mark.nightly
def test_runs_join_a_sweep_made_online(tmp_path: Path, text_file: Path) -> None:
    (tmp_path / "g.yaml").write_text(grid(2, 1))
    with WandbServer() as server:
        client = Client(server, tmp_path)
        client.run("wandb", "sweep", "g.yaml")
        (sweep,) = server.store.sweeps.values()
        identity = ("--wandb", "offline", "--wandb-sweep-id", sweep.path)
        client.run("fundamentallm", "sweep", "g.yaml", text_file, *identity, "--", *FLAGS)
        client.run("wandb", "sync", *sorted((tmp_path / "runs/g/wandb").glob("offline-run-*")))
        runs = list(server.store.runs.values())
        assert len(runs) == 2
        assert {run.sweep for run in runs} == {sweep.name}
        assert sorted(run.values["learning_rate"] for run in runs) == [0.001, 0.002]
