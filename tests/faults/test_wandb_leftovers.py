"""Files that W&B's client writes stay in the run's folder and are cleaned, however the run ends."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from tiny_sweep import FLAGS, grid, wait_for
from wandb_client import Client, check_same, wait_until
from wandb_server import WandbServer


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """Client with empty temporary, cache and data folders of its own."""
    names = {"TMPDIR": "tmp", "XDG_CACHE_HOME": "cache", "XDG_DATA_HOME": "data"}
    for name in names.values():
        (tmp_path / name).mkdir()
    with WandbServer() as server:
        yield Client(server, tmp_path, **{key: str(tmp_path / n) for key, n in names.items()})


def leftovers(folder: Path) -> list[Path]:
    """Return everything below a folder except kernels.so."""
    return [path for path in folder.rglob("*") if "fundamentallm" not in path.parts[-3:]]


@pytest.mark.nightly
@pytest.mark.parametrize("mode", ["offline", "online"])
def test_sweep(client: Client, text_file: Path, mode: str) -> None:
    (client.folder / "g.yaml").write_text(grid(2, 1))
    client.run("fundamentallm", "sweep", "g.yaml", text_file, "--wandb", mode, "--", *FLAGS)
    for subfolder in ("tmp", "data", "cache/wandb"):
        assert leftovers(client.folder / subfolder) == [], subfolder
    wandb = client.folder / "runs/g/wandb"
    assert list(wandb.glob("cache-*")) == []
    assert list(wandb.glob("*run-*/tmp/client")) == []
    assert list(wandb.glob("*run-*/artifacts/staging/*")) == []
    if mode == "offline":
        client.run("wandb", "sync", *sorted(wandb.glob("offline-run-*")))
    for run in client.server.store.runs.values():
        number = run.display_name.removeprefix("lr")[0]
        folder = client.folder / f"runs/g/run-000{number}"
        check_same(client.server, run, folder, synced=mode == "offline")


def test_offline_run(client: Client, text_file: Path, tiny_flags: list[str]) -> None:
    client.train(text_file, *tiny_flags, "--output-dir=out", WANDB_MODE="offline")
    assert leftovers(client.folder / "tmp") == []
    assert leftovers(client.folder / "data") == []
    (run,) = (client.folder / "wandb").glob("offline-run-*")
    assert not (run / "tmp/client").exists()
    client.run("wandb", "sync", run)
    check_same(client.server, client.only_run(), client.folder / "out", synced=True)
    (model,) = [a for a in client.server.store.artifacts.values() if a.kind == "model"]
    best = (client.folder / "out/best.pt").read_bytes()
    assert client.server.store.artifact_files(model) == {"best.pt": best}


def test_online_run(client: Client, text_file: Path, tiny_flags: list[str]) -> None:
    client.train(text_file, *tiny_flags, "--output-dir=out")
    assert leftovers(client.folder / "tmp") == []
    assert leftovers(client.folder / "data") == []
    (run,) = (client.folder / "wandb").glob("run-*")
    assert not (run / "artifacts").exists()  # everything was sent
    assert [a for a in client.server.store.artifacts.values() if a.kind == "model"]


def test_killed_run(client: Client, text_file: Path, tiny_flags: list[str]) -> None:
    flags = [text_file, *tiny_flags, "--output-dir=out"]
    words = [sys.executable, ROOT / "train.py", *flags, "--max-steps=1000000"]
    process = client.popen(*words, WANDB_MODE="offline")
    wait_until((client.folder / "out/last.pt").exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for(lambda: leftovers(client.folder / "tmp") == [])
    assert leftovers(client.folder / "data") == []
    (killed,) = (client.folder / "wandb").glob("offline-run-*")
    assert (killed / "tmp/client").exists()  # in the run's own folder, until it is resumed
    resume_flags = ["--output-dir=out", "--resume", "--max-steps=1000000", "--max-minutes=0.02"]
    client.train(*resume_flags, WANDB_MODE="offline")
    assert list((client.folder / "wandb").glob("*/tmp/client")) == []
