"""Whole sweeps: the real `wandb sweep` and `wandb agent`, our `train.py`, the test server."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, nightly
from wandb_client import VARYING, Client, check_same, child_of, wait_until, without_varying
from wandb_server import Run, Sweep, WandbServer

pytestmark = pytest.mark.slow

METRIC = {"name": "val_loss", "goal": "minimize"}
FIXED = {name: {"value": value} for name, value in TINY.items()}
UNENDING = FIXED | {"max_steps": {"value": 1_000_000}, "epochs": {"value": 1_000_000}}


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as running:
        yield running
        assert running.refused == []


@pytest.fixture
def client(server: WandbServer, tmp_path: Path, text: str) -> Client:
    (tmp_path / "cats.txt").write_text(text, "utf-8")
    return Client(server, tmp_path)


def sweep_of(method: str, parameters: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A sweep file over the test's text."""
    data = {"data": {"value": "cats.txt"}}
    return {"method": method, "metric": METRIC, "parameters": data | parameters, **more}


def finish(client: Client, sweep: Sweep, **environment: str) -> str:
    """Run one agent to the end of the sweep."""
    output, _ = client.agent(sweep, **environment).communicate(timeout=400)
    assert sweep.state == "FINISHED", output
    return output


def check_all(client: Client, sweep: Sweep) -> None:
    for run in sweep.runs:
        check_same(client.server, run, client.folder / "runs" / run.name)


def test_a_grid_to_its_end(client: Client) -> None:
    """The grid has impossible points; the public API finds the best run and its curve."""
    parameters = FIXED | {
        "learning_rate": {"values": [0.001, 0.003]},
        "num_heads": {"values": [2, 3]},
    }
    sweep = client.sweep(sweep_of("grid", parameters, description="Which rate?"))
    finish(client, sweep, WANDB_NAME="mine")
    assert [(r.values["learning_rate"], r.values["num_heads"]) for r in sweep.runs] == [
        (0.001, 2),
        (0.001, 3),
        (0.003, 2),
        (0.003, 3),
    ]
    for run in sweep.runs:
        assert (run.state, run.exit_code) == ("finished", 0)
        folder = client.folder / "runs" / run.name
        if run.values["num_heads"] == 2:
            check_same(client.server, run, folder)
            rate = {0.001: "1e-3", 0.003: "3e-3"}[run.values["learning_rate"]]
            assert run.display_name == f"mine-h2-lr{rate}"
            assert (run.notes, run.group, run.tags) == ("Which rate?", None, [])
            assert run.values["fundamentallm"]["swept"] == ["learning_rate", "num_heads"]
            assert not [a for a in client.server.store.artifacts.values() if a.kind == "model"]
        else:
            assert run.tags == ["impossible"]
            (row,) = run.rows()
            guess = {"val_loss": math.log(32), "best_val_loss": math.log(32)}
            guess |= {"val_perplexity": 32, "val_bits_per_char": 5}
            assert row == pytest.approx({"step": 0, **guess})
            assert json.loads((folder / "summary.json").read_text())["status"] == "impossible"
            assert not (folder / "last.pt").exists()
    script = (
        "import wandb, json, sys\n"
        "sweep = wandb.Api().sweep(sys.argv[1])\n"
        "best = sweep.best_run()\n"
        "rows = [row['val_loss'] for row in best.history(keys=['val_loss'], pandas=False)]\n"
        "print(json.dumps([best.id, best.summary['val_loss'], best.config['learning_rate'], rows]))"
    )
    answer = client.run("python", "-c", script, sweep.path).stdout.splitlines()[-1]
    best = min(sweep.runs, key=lambda run: run.summary["val_loss"])
    name, score, rate, rows = json.loads(answer)
    assert (name, score) == (best.name, best.summary["val_loss"])
    assert rate == best.values["learning_rate"]
    assert rows == [row["val_loss"] for row in best.rows() if "val_loss" in row]


COMMANDS = {
    "args": ["${args}"],
    "nothing": [],
    "no_boolean_flags": ["${args_no_boolean_flags}"],
    "no_hyphens": ["${args_no_hyphens}"],
    "json_file": ["${args_json_file}"],
    "json_file_as_config": ["--config", "${args_json_file}"],
    "no_equals": ["${args_no_equals}"],
    "fixed_folder": ["--output-dir", "elsewhere", "${args}"],
}


@pytest.mark.nightly
def test_every_form_of_command_is_the_same_run(client: Client) -> None:
    rows = []
    for name, words in COMMANDS.items():
        parameters = {
            **FIXED,
            "optimizer": {"parameters": {"learning-rate": {"value": 0.002}}},
            "dropout": {"value": 0.25},
            "early_stopping": {"value": True},
            "mixed-precision": {"value": False},
            "lr_schedule": {"value": "cosine"},
        }
        command = ["${env}", "${interpreter}", "${program}", *words]
        sweep = client.sweep(sweep_of("grid", parameters, command=command))
        finish(client, sweep)
        (run,) = sweep.runs
        folder = "elsewhere" if name == "fixed_folder" else "runs"
        check_same(client.server, run, client.folder / folder / run.name)
        assert run.values["optimizer"] == {"learning-rate": 0.002}
        rows.append(without_varying(client.folder / folder / run.name))
    assert all(other == rows[0] for other in rows)


@pytest.mark.parametrize(
    ("parameters", "words", "message"),
    [
        ({"lr": {"value": 0.1}}, ["${args}"], "lr is not a hyperparameter; did you mean"),
        nightly({"lr": {"value": 0.1}}, [], "lr is not a hyperparameter; did you mean"),
        nightly(
            {"epochs": {"value": 3}},
            ["--epochs", "5", "${args}"],
            "epochs is 5 on the command line and 3 in sweep",
        ),
        nightly({"data": {"value": "dogs.txt"}}, ["${args}"], "dogs.txt: no such file"),
        nightly({"dropout": {"value": 1.5}}, ["${args}"], "--dropout: got '1.5'; give a number"),
    ],
)
def test_bad_input_fails_the_run_in_one_line(
    client: Client, parameters: dict[str, Any], words: list[str], message: str
) -> None:
    command = ["${env}", "${interpreter}", "${program}", *words]
    sweep = client.sweep(sweep_of("grid", parameters, command=command))
    output = finish(client, sweep)
    (run,) = sweep.runs
    assert (run.state, run.exit_code) == ("failed", 2)
    assert output.count(message) == 1, output
    assert message in run.summary["stopped_by"]
    assert "Traceback" not in output


@pytest.mark.nightly
def test_a_diverged_run_is_scored_and_the_agent_goes_on(client: Client) -> None:
    parameters = FIXED | {
        "learning_rate": {"values": [1000, 0.001]},
        "gradient_clip": {"value": 0},
        "max_steps": {"value": 200},
        "eval_every": {"value": 200},
    }
    sweep = client.sweep(sweep_of("grid", parameters))
    finish(client, sweep)
    diverged, healthy = sweep.runs
    assert (diverged.tags, diverged.state, diverged.exit_code) == (["diverged"], "finished", 0)
    assert diverged.summary["val_loss"] == math.log(32)
    assert [row["val_loss"] for row in diverged.rows() if "val_loss" in row] == [math.log(32)]
    assert healthy.summary["val_loss"] < math.log(32)


@pytest.mark.nightly
def test_hyperband_stops_runs_and_the_agent_goes_on(client: Client) -> None:
    """The stop comes by the file stream, which the client reads every 15 s.

    The first point of the grid is the best, so every other is worse than the best before it.
    """
    parameters = UNENDING | {
        "learning_rate": {"values": [1e-3, 1e-5, 2e-5, 3e-5]},
        "max_minutes": {"value": 0.6},
        "eval_every": {"value": 200},
    }
    rule = {"type": "hyperband", "min_iter": 2, "eta": 3}
    sweep = client.sweep(sweep_of("grid", parameters, early_terminate=rule))
    finish(client, sweep)
    assert len(sweep.runs) == 4
    stopped = [run for run in sweep.runs if run.stopped_early]
    assert stopped, "no run was worse than the best of those before"
    for run in stopped:
        assert (run.state, run.exit_code) == ("finished", 0)
        assert run.summary["stopped_by"] == "wandb"
        assert (client.folder / "runs" / run.name / "last.pt").exists()
    check_all(client, sweep)


def test_a_stop_by_the_agents_signal_ends_well(client: Client) -> None:
    client.server.store.stop_timeout = 0.0  # the agent is told at its next heartbeat
    sweep = client.sweep(sweep_of("grid", UNENDING | {"seed": {"values": [1]}}))
    agent = client.agent(sweep)
    wait_until(lambda: sweep.runs and len(sweep.runs[0].history) > 2, agent)
    sweep.runs[0].stop()
    output, _ = agent.communicate(timeout=100)
    run = sweep.runs[0]
    assert (run.state, run.exit_code, run.summary["stopped_by"]) == ("finished", 0, "wandb"), output
    assert run.tags == ["stopped"]
    check_all(client, sweep)


@pytest.mark.nightly
def test_two_agents_share_a_grid(client: Client) -> None:
    parameters = FIXED | {"dropout": {"values": [0, 0.1]}, "seed": {"values": [1, 2, 3]}}
    sweep = client.sweep(sweep_of("grid", parameters))
    agents = [client.agent(sweep), client.agent(sweep)]
    for agent in agents:
        output, _ = agent.communicate(timeout=300)
        assert agent.returncode == 0, output
    assert sorted(run.values["seed"] for run in sweep.runs) == [1, 1, 2, 2, 3, 3]
    assert {run.group for run in sweep.runs} == {f"{sweep.name}-do{d}" for d in ("0", "0.1")}
    check_all(client, sweep)


@pytest.mark.nightly
def test_a_killed_agent_leaves_the_rest_to_another(client: Client) -> None:
    parameters = FIXED | {"seed": {"values": [1, 2, 3]}, "max_steps": {"value": 4000}}
    sweep = client.sweep(sweep_of("grid", parameters))
    agent = client.agent(sweep)
    wait_until(lambda: sweep.runs and sweep.runs[0].history, agent)
    agent.kill()
    finish(client, sweep)
    assert [run.values["seed"] for run in sweep.runs] == [1, 2, 3]
    agent.communicate(timeout=100)  # until the orphaned run closes the pipe
    assert sweep.runs[0].state == "finished"  # its process goes on without the agent
    check_all(client, sweep)


def preempt(client: Client, sweep: Sweep, number: int, *, at_least: int) -> Run:
    """Start an agent, and send `number` to its run once that has some rows."""
    agent = client.agent(sweep, "--count", "1")
    known = len(sweep.runs[0].history) if sweep.runs else 0
    wait_until(lambda: sweep.runs and len(sweep.runs[0].history) >= known + at_least, agent)
    child = child_of(agent)
    assert child is not None
    os.kill(child, number)
    agent.communicate(timeout=100)
    return sweep.runs[0]


@pytest.mark.parametrize(
    "words",
    [
        ["cats.txt", "${args}"],
        *(nightly(["cats.txt", *form]) for name, form in COMMANDS.items() if name != "args"),
    ],
)
def test_a_run_that_comes_back_with_its_whole_config_goes_on(
    client: Client, words: list[str]
) -> None:
    """W&B hands it out again with all that the run had added to the sweep's values."""
    parameters = {
        "optimizer": {"parameters": {"learning-rate": {"value": 0.002}}},
        "early_stopping": {"value": False},
        "max-steps": {"value": 1600},
    }
    parameters |= {name: each for name, each in FIXED.items() if name != "max_steps"}
    command = ["${env}", "${interpreter}", "${program}", *words]
    config = sweep_of("grid", parameters, command=command)
    del config["parameters"]["data"]  # which is typed
    sweep = client.sweep(config)
    client.environment["WANDB_NAME"] = "mine"
    run = preempt(client, sweep, signal.SIGTERM, at_least=5)
    assert (run.state, run.exit_code) == ("preempted", 143)
    assert {"_wandb", "data", "fundamentallm", "max-steps"} <= set(run.config)
    assert run.tags == []
    output = finish(client, sweep)
    assert (run.state, run.exit_code, run.starts) == ("finished", 0, 2), output
    assert run.display_name == "mine-d16-l2-h2-lr2e-3-b4-s16-steps1600"
    (folder,) = client.folder.glob(f"*/{run.name}/summary.json")
    check_same(client.server, run, folder.parent)


@pytest.mark.nightly
@pytest.mark.parametrize("forwards", [True, False])
def test_a_scheduler_that_signals_the_agent_alone(client: Client, forwards: bool) -> None:
    """SLURM and Kubernetes as docs/cluster.md has them, with and without the flag."""
    sweep = client.sweep(sweep_of("grid", UNENDING | {"seed": {"values": [1]}}))
    agent = client.agent(sweep, *(["--forward-signals"] if forwards else []))
    wait_until(lambda: sweep.runs and len(sweep.runs[0].history) > 2, agent)
    child, run = child_of(agent), sweep.runs[0]
    assert child is not None
    agent.send_signal(signal.SIGTERM)
    if forwards:
        output, _ = agent.communicate(timeout=100)
        assert (run.state, run.exit_code) == ("preempted", 143), output
        assert sweep.queue == [run]
        check_all(client, sweep)
        assert not Path(f"/proc/{child}").exists()
    else:
        assert agent.wait(100) == -signal.SIGTERM
        rows = len(run.history)
        deadline = time.monotonic() + 100
        while len(run.history) <= rows and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(run.history) > rows  # nobody has told the run
        os.kill(child, signal.SIGTERM)
        agent.communicate(timeout=100)  # until the orphan closes the pipe
        assert run.state == "preempted"


@pytest.mark.nightly
def test_preempted_and_killed_and_still_one_curve(client: Client) -> None:
    parameters = FIXED | {"seed": {"values": [1]}, "max_steps": {"value": 1600}}
    sweep = client.sweep(sweep_of("grid", parameters))
    run = preempt(client, sweep, signal.SIGTERM, at_least=5)
    assert (run.state, run.exit_code) == ("preempted", 143)
    assert sweep.queue == [run]
    run = preempt(client, sweep, signal.SIGKILL, at_least=5)
    run.state = "preempted"  # what W&B concludes when it hears no more of a preemptible run
    sweep.queue.append(run)
    finish(client, sweep)
    assert (run.state, run.exit_code, run.starts) == ("finished", 0, 3)
    assert len(sweep.runs) == 1
    folder = client.folder / "runs" / run.name
    check_same(client.server, run, folder, varying=VARYING)
    steps = [row["step"] for row in run.rows()]
    assert steps == sorted(set(steps))
    flags = [f"--{name}={entry['value']}" for name, entry in FIXED.items()]
    client.train(
        "cats.txt", *flags, "--max-steps=1600", "--seed=1", "--output-dir=whole", "--no-wandb"
    )
    assert without_varying(folder) == without_varying(client.folder / "whole")


@pytest.mark.nightly
def test_offline_under_an_agent(client: Client) -> None:
    sweep = client.sweep(sweep_of("grid", FIXED | {"seed": {"values": [1, 2]}}))
    output = finish(client, sweep, WANDB_MODE="offline")
    commands = [line.split("it with: ")[1] for line in output.splitlines() if "it with: " in line]
    assert len(commands) == 2, output
    for command in commands:
        client.run(*command.split())
    check_all(client, sweep)
    assert [run.values["seed"] for run in sweep.runs] == [1, 2]


@pytest.mark.nightly
def test_pause_resume_and_update(client: Client) -> None:
    """The real client pauses only a sweep that runs; its run goes on to its own end."""
    parameters = FIXED | {"max_steps": {"value": 1000}}
    sweep = client.sweep(sweep_of("grid", parameters | {"seed": {"values": [1, 2, 3]}}))
    agent = client.agent(sweep)
    wait_until(lambda: sweep.runs and sweep.runs[0].history, agent)
    client.run("wandb", "sweep", "--pause", sweep.path)
    wait_until(lambda: sweep.runs[0].state == "finished", agent)
    beats = client.server.requests.count("Heartbeat")
    wait_until(lambda: client.server.requests.count("Heartbeat") >= beats + 3, agent)
    assert len(sweep.runs) == 1
    changed = sweep.config | sweep_of("grid", parameters | {"seed": {"values": [1, 4]}})
    (client.folder / "changed.yaml").write_text(json.dumps(changed), "utf-8")
    client.run("wandb", "sweep", "--update", sweep.path, "changed.yaml")
    client.run("wandb", "sweep", "--resume", sweep.path)
    output, _ = agent.communicate(timeout=300)
    assert [run.values["seed"] for run in sweep.runs] == [1, 4], output
    assert sweep.state == "FINISHED"
    check_all(client, sweep)


@pytest.mark.nightly
def test_stop_lets_the_run_end_and_cancel_ends_it(client: Client) -> None:
    client.server.store.stop_timeout = 0.0
    parameters = FIXED | {"seed": {"values": [1, 2]}, "max_steps": {"value": 2000}}
    for word, config in (("--stop", parameters), ("--cancel", parameters | UNENDING)):
        sweep = client.sweep(sweep_of("grid", config))
        agent = client.agent(sweep)
        wait_until(lambda sweep=sweep: sweep.runs and sweep.runs[0].history, agent)
        client.run("wandb", "sweep", word, sweep.path)
        output, _ = agent.communicate(timeout=300)
        (run,) = sweep.runs
        assert (run.state, run.exit_code) == ("finished", 0), output
        ended = "wandb" if word == "--cancel" else "max_steps"
        assert run.summary["stopped_by"] == ended
        check_all(client, sweep)
