"""A client of W&B that nobody knows yet: it may lack what we use, fail or hang. No run is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import nightly
from wandb_client import Client, check_same, without_varying
from wandb_server import WandbServer

LIMITS = {"WANDB_INIT_TIMEOUT": "2", "WANDB_FINISH_TIMEOUT": "4"}
FAULTS = {
    "log raises": "wandb.Run.log = fail",
    "log hangs": "wandb.Run.log = hang",
    "init raises": "wandb.init = fail",
    "init hangs": "wandb.init = hang",
    "finish raises": "wandb.Run.finish = fail",
    "finish hangs": "wandb.Run.finish = hang",
    "login hangs": "wandb.login = lambda prompt=True, verify=True: hang()",
    "settings are missing": """
class Settings(wandb.Settings):
    def __init__(self, **values):
        assert not values.keys() & MISSING, f"unknown: {values}"
        super().__init__(**values)

    def __getattribute__(self, name):
        if name in MISSING:
            raise AttributeError(name)
        return super().__getattribute__(name)

MISSING = {"stop_fn", "finish_timeout", "finish_timeout_raises", "x_transaction_log_flush_interval"}
wandb.Settings = Settings
""",
}
PATCH = """
import time
import wandb

def fail(*args, **named):
    raise RuntimeError("this client is from the future")

def hang(*args, **named):
    time.sleep(1_000_000)
"""


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with WandbServer() as server:
        yield Client(server, tmp_path, **LIMITS)


def patched(client: Client, fault: str) -> dict[str, str]:
    """Return the variables that give every process of `client` a client with a fault."""
    folder = client.folder / "future"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(PATCH + FAULTS[fault])
    return {"PYTHONPATH": str(folder)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ["log hangs", *(nightly(fault) for fault in FAULTS if fault != "log hangs")]
)
def test_a_run_ends_as_ever_and_is_sent_later(
    client: Client, text_file: Path, tiny_flags: list[str], fault: str
) -> None:
    client.train(text_file, *tiny_flags, "--output-dir=alone", "--no-wandb")
    own = patched(client, fault)
    done = client.train(text_file, *tiny_flags, "--output-dir=out", **own)
    assert "Traceback" not in done.stdout
    folder = client.folder / "out"
    assert without_varying(folder) == without_varying(client.folder / "alone")
    if fault != "settings are missing":
        said = "this run stays on this machine" if "login" in fault else "send it with: "
        assert said in done.stdout
        client.run("fundamentallm", "sync", "out")
    check_same(client.server, client.only_run(), folder)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["log raises", nightly("log hangs"), nightly("init raises")])
def test_an_agents_run_does_not_train_for_nothing(
    client: Client, text_file: Path, tiny_flags: list[str], fault: str
) -> None:
    sweep = client.sweep({"method": "grid", "parameters": {"seed": {"value": 1}}})
    values = client.folder / "config-abc.yaml"
    values.write_text(yaml.safe_dump({"wandb_version": 1, "seed": {"value": 1}}))
    assigned = {
        "WANDB_SWEEP_ID": sweep.name,
        "WANDB_RUN_ID": "abc",
        "WANDB_SWEEP_PARAM_PATH": str(values),
    }
    flags = [flag for flag in tiny_flags if "max-steps" not in flag]
    endless = ["--max-steps=100000000", "--epochs=1000000"]
    done = client.train(text_file, *flags, *endless, code=2, **assigned, **patched(client, fault))
    assert "would train for nothing" in done.stdout
    assert "Traceback" not in done.stdout
