"""Real W&B clients for the test server, and comparisons of its data with a run's folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from conftest import ROOT
from wandb_server import Run, Sweep, WandbServer

from fundamentallm.config.parsing import innermost, read_config
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.files.samples import Sample
from fundamentallm.trackers.wandb_presentation import samples_of_page

BIN = Path(sys.executable).parent
VARYING = ("perf/tokens_per_second", "perf/memory_gb")  # differ between identical runs


class Client:
    """Runs `train.py`, `wandb sweep` and `wandb agent` in `folder`, against `server`.

    `python` is the interpreter of another environment (client_environments.py).
    """

    def __init__(
        self,
        server: WandbServer,
        folder: Path,
        python: str | Path = sys.executable,
        **environment: str,
    ) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
        path = f"{Path(python).parent}:{os.environ['PATH']}"
        own = {"WANDB_PROJECT": "p", "HOME": str(folder), "PATH": path}
        self.server, self.folder, self.python = server, folder, str(python)
        shutil.copy2(ROOT / "train.py", folder)  # `fundamentallm sweep` looks for it here
        self.environment = {**inherited, **server.environment, **own, **environment}

    def popen(self, *words: object, **environment: str) -> subprocess.Popen[str]:
        """Start a command; `communicate` returns stdout and stderr together."""
        return subprocess.Popen(
            list(map(str, words)),
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(
        self, *words: object, code: int | None = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command and check that it exits with `code`."""
        process = self.popen(*words, **environment)
        output, _ = process.communicate(timeout=400)
        assert code is None or process.returncode == code, output
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def train(
        self, *flags: object, code: int | None = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `python train.py FLAGS`."""
        return self.run(self.python, ROOT / "train.py", *flags, code=code, **environment)

    def sweep(self, config: Mapping[str, Any]) -> Sweep:
        """Write `config` to a file and run `wandb sweep` on it."""
        file = self.folder / "sweep.yaml"
        file.write_text(yaml.safe_dump({"program": str(ROOT / "train.py"), **config}), "utf-8")
        before = set(self.server.store.sweeps)
        self.run("wandb", "sweep", file)
        (created,) = set(self.server.store.sweeps) - before
        return self.server.store.sweeps[created]

    def agent(self, sweep: Sweep, *flags: object, **environment: str) -> subprocess.Popen[str]:
        """Start `wandb agent SWEEP`."""
        return self.popen("wandb", "agent", *flags, sweep.path, **environment)

    def only_run(self) -> Run:
        """Return the only run on the server."""
        (run,) = self.server.store.runs.values()
        return run


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until `condition` is true; fail if `process` ends first."""
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def child_of(process: subprocess.Popen[str]) -> int | None:
    """Return the process of train.py that an agent started, if one is running."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if parent == process.pid and b"train.py" in command:
            return int(entry.name)
    return None


def sent_samples(server: WandbServer, run: Run) -> list[tuple[int, Sample]]:
    """Return the samples of all pages of a run, with their steps, in order."""
    found: list[tuple[int, Sample]] = []
    for row in run.history:
        if "samples" in row:
            blob = server.store.blobs[f"runs/{run.name}/{row['samples']['path']}"]
            found += samples_of_page(blob.decode())
    return found


def check_same(
    server: WandbServer,
    run: Run,
    folder: Path,
    *,
    varying: Sequence[str] = (),
    synced: bool = False,
) -> None:
    """Check that the server has every row, sample and setting of the folder once, and no more.

    Metrics in `varying` may differ. `wandb sync` may send a run twice (`synced`).
    """
    assert synced or run.repeated == []

    def fixed(row: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key not in (*varying, "samples")}

    run_folder = RunFolder(folder)
    assert [fixed(row) for row in run.rows()] == [fixed(row) for row in run_folder.rows()]
    assert sent_samples(server, run) == list(run_folder.read_samples())
    config = run_folder.read_config()
    assert read_config(run.values, "W&B") == config
    names = [name.replace("-", "_") for name, _ in innermost(run.values)]
    assert len(names) == len(set(names)) == len(config)  # no name twice
    summary = json.loads(run_folder.summary.read_text())
    for key in ("best_val_loss", "best_step", "status", "parameters"):
        assert run.summary[key] == summary[key], key
    assert run.summary["last_val_loss"] == summary["val_loss"]
    if summary["best_step"]:
        assert run.summary["val_loss"] == summary["best_val_loss"]
        assert run.values["fundamentallm"]["parameters"] == summary["parameters"]


def without_varying(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run without the metrics that vary."""
    return [
        {key: value for key, value in row.items() if key not in VARYING}
        for row in RunFolder(folder).rows()
    ]
