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
import json, os, sys
from dataclasses import asdict
from fundamentallm.report.read_runs import read_results
from fundamentallm.report.read_wandb import read_wandb_sweep

def plain(run):
    curves = {name: [curve.steps, curve.values] for name, curve in run.curves.items()}
    found = asdict(run)
    return found | {"curves": curves, "samples": found["samples"][-1:]}

on_wandb = read_wandb_sweep(sys.argv[1])
here = read_results(["runs"]).runs if os.path.exists("runs") else []
found = {"wandb": list(map(plain, on_wandb.runs)), "here": list(map(plain, here))}
print(json.dumps(found | {"sweep": dict(on_wandb.sweep.content), "notes": on_wandb.notes}))
"""

PROGRAM = """
import time, wandb
run = wandb.init()
run.config.update({"started": time.time()})
for step in range(3):
    bonus = {"sgd": 0.2, "adam": 0.1}[run.config["opt"]["name"]]
    run.log({"eval": {"acc": bonus + run.config["net"]["width"] / 10 - 0.01 * step}})
"""


def test_a_sweep_on_wandb(tmp_path: Path, text_file: Path) -> None:
    parameters = {
        "learning_rate": {"values": [0.001, 0.003]},
        "shape": {"values": [{"num_heads": 2}, {"num_heads": 5}]},  # 5 is impossible
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


@pytest.mark.nightly
def test_another_program_on_wandb(tmp_path: Path) -> None:
    """Values that are mappings, and nested names."""
    (tmp_path / "theirs.py").write_text(PROGRAM)
    choices = [{"name": "sgd", "momentum": 0.9}, {"name": "adam"}]
    parameters = {"opt": {"values": choices}, "net": {"parameters": {"width": {"values": [1, 2]}}}}
    config = {
        "program": "theirs.py", "method": "grid", "parameters": parameters,
        "metric": {"name": "eval.acc", "goal": "maximize"},
    }  # fmt: skip
    with WandbServer() as server:
        client = Client(server, tmp_path)
        sweep = client.sweep(config)
        client.run("wandb", "agent", sweep.path)
        dumped = client.run("python", "-c", DUMP, sweep.path).stdout
        said = client.run("fundamentallm", "explain", sweep.path).stdout
        client.run("fundamentallm", "report", sweep.path)
        following = client.run("fundamentallm", "next", sweep.path, code=None).stdout
        assert server.refused == []
    found = json.loads(dumped.splitlines()[-1])["wandb"]
    settings = [{n: run["settings"][n] for n in ("opt", "net.width")} for run in found]
    assert settings == [{"opt": opt, "net.width": width} for width in (1, 2) for opt in choices]
    assert [run["score"] for run in found] == pytest.approx([0.3, 0.2, 0.4, 0.3])
    assert "best eval.acc: 0.4000" in said
    assert "opt (sgd, momentum=0.9)" in " ".join(said.split())
    assert "val_loss" not in said + following


def test_wandb_away(tmp_path: Path) -> None:
    with WandbServer() as server:
        client = Client(server, tmp_path)
        server.status = 401
        done = client.run("fundamentallm", "report", "tester/p/abc", code=2)
        assert done.stdout.count("\n") == 1
        assert "see wandb login" in done.stdout
