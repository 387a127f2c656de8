"""One sweep file under the real `wandb agent` and under `fundamentallm sweep`, field by field.

The program writes down what it can see of how it was started. The differences are listed here, and
nothing else may differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foreign
import pytest
import yaml
from wandb_client import Client
from wandb_server import WandbServer

pytestmark = pytest.mark.slow

MACROS = [
    *("${args}", "${args_no_boolean_flags}", "${args_no_hyphens}", "${args_no_equals}"),
    *("${args_append_hydra}", "${args_override_hydra}", "${args_json}", "${args_json_file}"),
    *("${envvar:GREETING}", "say:${envvar:GREETING}!", "${envvar:NOT_SET}", "${unknown}"),
    *("pre${args}post", "--seed", "plain word", "$HOME"),
]
SWEEP = {
    "program": "show.py",
    "method": "grid",
    "metric": {"name": "loss", "goal": "minimize"},
    "command": ["${env}", "${interpreter}", "${program}", *MACROS],
    "parameters": {
        "use_ema": {"values": [True, False]},
        "lr": {"value": 1e-05},
        "batch-size": {"value": 64},
        "large": {"value": 12345678901234567890},
        "whole": {"value": 2.0},
        "nothing": {"value": None},
        "text": {"value": "two words, 'quoted' and ünï"},
        "digits": {"value": "007"},
        "empty": {"value": ""},
        "layers": {"value": [64, 32]},
        "model.depth": {"value": 3},
        "optimizer": {
            "parameters": {
                "name": {"value": "adamw"},
                "inner": {"parameters": {"beta2": {"value": 0.95}}},
            }
        },
        "choice": {"values": [{"momentum": 0.9, "kind": "sgd", "betas": [{"z": 1, "a": 2}]}]},
    },
}
ADDED = {
    "FUNDAMENTALLM_RUN_DIR",  # for programs that resume
    "OMP_NUM_THREADS",  # the cores are divided among the runs
    "OMP_WAIT_POLICY",
    "PYTHONUNBUFFERED",  # output.txt fills while the program runs
    "WANDB_RUN_GROUP",  # the sweep's name, for `wandb sync`
    "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL",  # rows are read while the program runs
}
DIFFERENT = {
    "SEEN": "the test's own",
    "WANDB_DIR": "the run's folder; the agent's is the current folder",
    "WANDB_MODE": "offline; the agent leaves it unset",
}


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as running:
        yield running
        assert running.refused == []


def normalized(seen: dict[str, Any]) -> dict[str, Any]:
    """Replace the ids of run and sweep, and the folder of the files with values, by names."""
    environment = seen["environment"]
    text = json.dumps(seen).replace(f"{environment['WANDB_DIR']}/wandb/", "WANDB_DIR/wandb/")
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        text = text.replace(environment[name], name)
    return json.loads(text)


def by_value(folder: Path) -> dict[bool, dict[str, Any]]:
    """Return what each run saw, by the value that differs between runs."""
    found = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return {each["config"]["use_ema"]: normalized(each) for each in found}


def test_a_program_is_started_as_by_wandb_agent(server: WandbServer, tmp_path: Path) -> None:
    client = Client(server, tmp_path)
    foreign.place("shows_start", tmp_path)
    for name in ("agent", "ours"):
        (tmp_path / name).mkdir()
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(SWEEP, sort_keys=False))
    client.run("wandb", "sweep", file)  # which sorts the parameters by name
    (sweep,) = server.store.sweeps.values()
    more = {"GREETING": "good day"}
    output, _ = client.agent(sweep, SEEN="agent", **more).communicate(timeout=300)
    theirs = by_value(tmp_path / "agent")
    assert theirs.keys() == {True, False}, output
    more |= server.environment | {"HOME": str(tmp_path), "WANDB_PROJECT": "p"}
    more["WANDB_SERVICE"] = "of a run in which the sweep was started; the agent drops it too"
    output = foreign.run(tmp_path, "sweep", file, SEEN="ours", **more)
    ours = by_value(tmp_path / "ours")
    assert ours.keys() == theirs.keys(), output
    for value, expected in theirs.items():
        found = ours[value]
        environment, expected_environment = found.pop("environment"), expected.pop("environment")
        assert found.keys() == expected.keys()
        for name, field in expected.items():
            assert found[name] == field, name
        assert environment.keys() - expected_environment.keys() <= ADDED | DIFFERENT.keys()
        assert expected_environment.keys() - environment.keys() == set()
        assert environment.keys() >= ADDED
        for name in expected_environment.keys() - DIFFERENT.keys():
            assert environment[name] == expected_environment[name], name
        run = Path(environment["WANDB_DIR"])
        assert run.parent == tmp_path / "runs/sweep"
        assert environment["FUNDAMENTALLM_RUN_DIR"] == str(run / "files")
        assert environment["WANDB_MODE"] == "offline"
