"""Sweeps on W&B that our search drives: `wandb sweep-scheduler`, `wandb agent` and our trainer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import yaml
from conftest import TINY
from wandb_client import Client, check_same, wait_until
from wandb_server import Sweep, WandbServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("wandb.sdk.sweeps") is None,
        reason="only wandb 0.31 and later has the scheduler",
    ),
]
FIXED = {name: {"value": value} for name, value in TINY.items()}
RATES = {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e3}
"""Rates of which about half diverge."""


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as running:
        yield running
        assert running.refused == []


@pytest.fixture
def client(server: WandbServer, tmp_path: Path, text: str) -> Client:
    (tmp_path / "cats.txt").write_text(text, "utf-8")
    names = "bayes, configuration, grid, random"
    (tmp_path / "search.py").write_text(f"from fundamentallm.hosted_search import {names}\n")
    return Client(server, tmp_path)


def hosted(method: str, parameters: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A sweep file whose search on W&B is ours."""
    functions = {"optimizer": method, "search_space": "configuration"}
    return {
        "program": "train.py",
        "method": "custom",
        "metric": {"name": "val_loss"},
        "parameters": {**FIXED, "data": {"value": "cats.txt"}, **parameters},
        "scheduler": {"engine": "optuna", "source": "search.py", **functions},
        **more,
    }


def scheduler(client: Client, sweep: Sweep, batch_size: int) -> Popen[str]:
    """Start `wandb sweep-scheduler`."""
    flags = (f"--batch-size={batch_size}", "--poll-interval=1")
    return client.popen("wandb", "sweep-scheduler", *flags, sweep.path)


def test_agents_run_what_our_search_suggests(client: Client) -> None:
    sweep = client.sweep(hosted("random", {"learning_rate": RATES}, run_cap=3))
    search, agents = scheduler(client, sweep, 2), [client.agent(sweep) for _ in range(2)]
    output, _ = search.communicate(timeout=400)
    assert search.returncode == 0, output
    for agent in agents:
        agent.communicate(timeout=100)
    assert (sweep.state, [run.state for run in sweep.runs]) == ("FINISHED", ["finished"] * 3)
    assert len({run.values["learning_rate"] for run in sweep.runs}) == 3


@pytest.mark.nightly
def test_a_sweep_on_w_and_b_and_the_same_file_here_have_the_same_runs(client: Client) -> None:
    parameters = {"learning_rate": RATES, "num_heads": {"values": [2, 3]}}
    sweep = client.sweep(hosted("bayes", parameters, run_cap=6))
    search, agent = scheduler(client, sweep, 1), client.agent(sweep)
    output, _ = search.communicate(timeout=400)
    assert search.returncode == 0, output
    assert "the sweep finished" in output
    agent.communicate(timeout=100)
    assert sweep.state == "FINISHED"
    assert all(run.state == "finished" for run in sweep.runs)
    assert any("diverged" in run.tags for run in sweep.runs[:4])
    for run in sweep.runs:
        if "diverged" not in run.tags:  # whose score only W&B has
            check_same(client.server, run, client.folder / "runs" / run.name)
    output = client.run("fundamentallm", "sweep", "sweep.yaml", "--workers", 1).stdout
    assert "sweep.yaml: scheduler is for W&B; here the method is bayes" in output
    folders = sorted((client.folder / "runs/sweep").glob("run-*"))
    local = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in folders]
    names = ("learning_rate", "num_heads", "data")
    assert [[run.values[name] for name in names] for run in sweep.runs] == [
        [config[name] for name in names] for config in local
    ]


@pytest.mark.nightly
def test_two_agents_and_a_scheduler_that_is_killed(client: Client) -> None:
    """A run fails, another scheduler continues, and no configuration comes twice."""
    data = {"values": ["cats.txt", "missing.txt"]}
    rates = {"values": [0.001, 0.003, 0.01]}
    sweep = client.sweep(hosted("grid", {"data": data, "learning_rate": rates}))
    killed = scheduler(client, sweep, 2)
    agents = [client.agent(sweep, "--forward-signals") for _ in range(2)]
    wait_until(lambda: sum(run.state == "finished" for run in sweep.runs) >= 2, killed)
    killed.kill()
    killed.communicate()
    again = scheduler(client, sweep, 2)
    output, _ = again.communicate(timeout=400)
    assert again.returncode == 0, output
    for agent in agents:
        agent.communicate(timeout=100)
    configurations = [(run.values["data"], run.values["learning_rate"]) for run in sweep.runs]
    assert sorted(configurations) == [(d, r) for d in data["values"] for r in rates["values"]]
    for run in sweep.runs:
        found = run.values["data"] == "cats.txt"
        assert (run.state == "finished") == found, (run.name, run.state)
        if found:
            summary = json.loads((client.folder / "runs" / run.name / "summary.json").read_text())
            assert summary["status"] == "done"
