"""Real clients against the test server, and the comparison of what it holds with a run's folder."""

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

from fundamentallm.files.run_folder import RunFolder
from fundamentallm.files.samples import Sample

BIN = Path(sys.executable).parent
VARYING = ("perf/tokens_per_second", "perf/memory_gb")  # differ from one run to the next


class Client:
    """Runs `train.py`, `wandb sweep` and `wandb agent` in `folder`, against `server`."""

    def __init__(self, server: WandbServer, folder: Path, **environment: str) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
        own = {"WANDB_PROJECT": "p", "HOME": str(folder), "PATH": f"{BIN}:{os.environ['PATH']}"}
        self.server, self.folder = server, folder
        shutil.copy2(ROOT / "train.py", folder)  # as in a clone, for `fundamentallm sweep`
        self.environment = {**kept, **server.environment, **own, **environment}

    def popen(self, *words: object, **environment: str) -> subprocess.Popen[str]:
        """Start a command; its output, both streams, is read with `communicate`."""
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
        """Run a command to its end, and see that it ends with `code`."""
        process = self.popen(*words, **environment)
        output, _ = process.communicate(timeout=400)
        assert code is None or process.returncode == code, output
        return subprocess.CompletedProcess(process.args, process.returncode, output)

    def train(
        self, *flags: object, code: int | None = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """`python train.py FLAGS`."""
        return self.run(sys.executable, ROOT / "train.py", *flags, code=code, **environment)

    def sweep(self, config: Mapping[str, Any]) -> Sweep:
        """`wandb sweep FILE`, for a file that says `config`."""
        file = self.folder / "sweep.yaml"
        file.write_text(yaml.safe_dump({"program": str(ROOT / "train.py"), **config}), "utf-8")
        before = set(self.server.store.sweeps)
        self.run("wandb", "sweep", file)
        (made,) = set(self.server.store.sweeps) - before
        return self.server.store.sweeps[made]

    def agent(self, sweep: Sweep, *flags: object, **environment: str) -> subprocess.Popen[str]:
        """`wandb agent SWEEP`, started."""
        return self.popen("wandb", "agent", *flags, sweep.path, **environment)

    def only_run(self) -> Run:
        """The one run that the server holds."""
        (run,) = self.server.store.runs.values()
        return run


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait for something that `process` brings about; its death is an error."""
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def child_of(process: subprocess.Popen[str]) -> int | None:
    """The process that an agent runs, if there is one: the one with our program."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if parent == process.pid and b"train.py" in command:
            return int(entry.name)
    return None


def tables(server: WandbServer, run: Run) -> list[list[Any]]:
    """The rows of every `samples` table of a run, in order."""
    rows: list[list[Any]] = []
    for row in run.history:
        if "samples" in row:
            blob = server.store.blobs[f"runs/{run.name}/{row['samples']['path']}"]
            rows += json.loads(blob)["data"]
    return rows


def check_same(
    server: WandbServer,
    run: Run,
    folder: Path,
    *,
    varying: Sequence[str] = (),
    synced: bool = False,
) -> None:
    """The server holds every row, sample and setting of the folder, once, and nothing else.

    `varying` may differ; and a run that `wandb sync` sent again (`synced`) came twice.
    """
    assert synced or run.repeated == []

    def fixed(row: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key not in (*varying, "samples")}

    kept = RunFolder(folder)
    assert [fixed(row) for row in run.rows()] == [fixed(row) for row in kept.rows()]
    written = [
        [step, sample.prompt, sample.temperature, sample.text] for step, sample in kept.written()
    ]
    assert tables(server, run) == written
    assert all(isinstance(Sample(*row[1:]), Sample) for row in written)
    config = kept.read_config()
    assert {key: run.values[key] for key in config} == config
    summary = json.loads(kept.summary.read_text())
    for key in ("val_loss", "best_val_loss", "best_step", "status", "parameters"):
        assert run.summary[key] == summary[key], key


def without_varying(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run but for what no two runs share."""
    return [
        {key: value for key, value in row.items() if key not in VARYING}
        for row in RunFolder(folder).rows()
    ]
