"""A sweep on W&B is reported as its run folders are: the real client and agent, the test server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_sweep import FLAGS
from wandb_client import VARYING, Client
from wandb_server import WandbServer

pytestmark = pytest.mark.slow

DUMP = """
import json, sys
from dataclasses import asdict
from fundamentallm.report.read_runs import read_results
from fundamentallm.report.read_wandb import read_wandb_sweep

def plain(run):
    curves = {name: [curve.steps, curve.values] for name, curve in run.curves.items()}
    found = asdict(run)
    return found | {"curves": curves, "samples": found["samples"][-1:]}

on_wandb = read_wandb_sweep(sys.argv[1])
here = read_results(["runs"])
found = {"wandb": list(map(plain, on_wandb.runs)), "here": list(map(plain, here.runs))}
print(json.dumps(found | {"sweep": dict(on_wandb.sweep.content), "notes": on_wandb.notes}))
"""


def test_a_sweep_on_wandb(tmp_path: Path, text_file: Path) -> None:
    parameters = {
        "learning_rate": {"values": [0.001, 0.003]},
        "num_heads": {"values": [2, 5]},  # 5 is impossible
        "data": {"value": str(text_file)},
    }
    flags = [flag for flag in FLAGS if "heads" not in flag] + ["--max-steps=24", "--eval-every=8"]
    metric = {"name": "val_loss", "goal": "minimize"}
    with WandbServer() as server:
        client = Client(server, tmp_path)
        sweep = client.sweep(
            {"method": "grid", "metric": metric, "parameters": parameters,
             "command": ["${env}", "${interpreter}", "${program}", "${args}", *flags]}
        )  # fmt: skip
        empty = client.run("fundamentallm", "report", sweep.path, code=2)
        assert "no run of this sweep has started" in empty.stdout
        client.run("wandb", "agent", sweep.path)

        client.run("fundamentallm", "report", sweep.path)
        page = (tmp_path / "report.html").read_text()
        said = client.run("fundamentallm", "explain", sweep.path).stdout
        following = client.run("fundamentallm", "compare", sweep.path, "--json").stdout
        dumped = client.run("python", "-c", DUMP, sweep.path).stdout
        missing = client.run("fundamentallm", "report", "tester/p/none", code=2)
        assert server.refused == []
    assert missing.stdout.count("\n") == 1
    assert "tester/p/none" in missing.stdout
    assert "What the models wrote" in page
    assert "best val_loss" in said
    assert len(json.loads(following)["learning_rate"]) == 4
    found = json.loads(dumped.splitlines()[-1])
    assert found["notes"] == []
    assert found["sweep"]["parameters"] == parameters
    trained = [run for run in found["wandb"] if run["status"] == "done"]
    assert len(trained) == 2
    assert [run["status"] for run in found["wandb"]].count("impossible") == 2

    def rate(run: dict) -> float:
        return run["settings"]["learning_rate"]

    here = sorted((run for run in found["here"] if run["status"] == "done"), key=rate)
    for ours, theirs in zip(here, sorted(trained, key=rate), strict=True):
        assert ours["samples"] == theirs["samples"] != []
        assert ours["score"] == theirs["score"]
        assert ours["settings"].items() <= theirs["settings"].items()
        for name, curve in ours["curves"].items():
            assert theirs["curves"][name] == curve or name in VARYING, name


def test_wandb_away(tmp_path: Path) -> None:
    with WandbServer() as server:
        client = Client(server, tmp_path)
        server.status = 401
        done = client.run("fundamentallm", "report", "tester/p/abc", code=2)
        assert done.stdout.count("\n") == 1
        assert "see wandb login" in done.stdout
