"""Sweeps of foreign programs whose runs go to W&B while they run, with the real client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from foreign import change, place
from wandb_client import Client
from wandb_server import WandbServer

from fundamentallm.files.run_folder import RunFolder

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as running:
        yield running
        assert running.refused == []


@pytest.mark.parametrize("joins", [False, True])
def test_runs_arrive_on_wandb_with_the_rows_of_their_folder(
    joins: bool, server: WandbServer, tmp_path: Path
) -> None:
    """Without a sweep on W&B they are one group; with one they belong to it."""
    client = Client(server, tmp_path)
    file = change(place("argparse_wandb", tmp_path), run_cap=2, name="mine")
    words = ["fundamentallm", "sweep", file, "--wandb", "online", "--workers", "2"]
    if joins:
        client.run("wandb", "sweep", file)
        (sweep,) = server.store.sweeps.values()
        words += ["--wandb-sweep-id", sweep.path]
    client.run(*words)
    runs = list(server.store.runs.values())
    assert len(runs) == 2
    folders = [RunFolder(tmp_path / f"runs/mine/run-000{number}") for number in (1, 2)]
    for run, folder in zip(sorted(runs, key=lambda each: each.name), folders, strict=True):
        here = [{k: v for k, v in row.items() if k != "step"} for row in folder.rows()]
        there = [{k: v for k, v in row.items() if not k.startswith("_")} for row in run.history]
        assert here == there
        assert run.group == "mine"
        assert bool(run.sweep) == joins
