"""An environment without W&B's client: what needs it says so, and all else works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from client_environments import NONE, ROOT, environment

MISSING = "wandb is not installed (pip install wandb)"
TINY = {"model_dim": 16, "num_layers": 1, "num_heads": 2, "max_seq_len": 16, "max_steps": 20}
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
OURS = {
    "program": "train.py", "method": "grid",
    "metric": {"name": "val_loss", "goal": "minimize"},
    "parameters": {"learning_rate": {"values": [0.001, 0.002, 0.003, 0.004, 0.005]}}
    | {name: {"value": value} for name, value in TINY.items()},
}  # fmt: skip
PROGRAM = """
import json, sys
lr = float(sys.argv[1].removeprefix("--lr="))
for step in range(3):
    print(json.dumps({"step": step, "loss": lr + step}))
"""
OF_A_PROGRAM = {
    "program": "fit.py", "method": "grid", "metric": {"name": "loss", "goal": "minimize"},
    "parameters": {"lr": {"values": [0.5, 0.25]}},
}  # fmt: skip
FUNCTION = """
import json, os, yaml
from fundamentallm import run_sweep

def descend():
    with open(os.environ["WANDB_SWEEP_PARAM_PATH"]) as file:
        lr = yaml.safe_load(file)["lr"]["value"]
    print(json.dumps({"loss": lr}))

if __name__ == "__main__":
    config = {"method": "grid", "parameters": {"lr": {"values": [2, 1]}}}
    results = run_sweep(config | {"metric": {"name": "loss"}}, function=descend)
    print("best", results.best.score)
"""


class Shell:
    """Runs commands with the interpreter of an environment without a client."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.python = folder, environment(NONE)
        kept = {k: v for k, v in os.environ.items() if k[:6] != "WANDB_" and k != "PYTHONPATH"}
        self.environment = kept | {"PATH": f"{self.python.parent}:{kept['PATH']}"}

    def run(self, *words: object, code: int = 0, **variables: str) -> str:
        """Run `fundamentallm WORDS`, check that it exits with `code`, and return its output."""
        return self.run_python("-m", "fundamentallm", *words, code=code, **variables)

    def run_python(self, *words: object, code: int = 0, **variables: str) -> str:
        """Run `python WORDS`, check that it exits with `code`, and return its output."""
        done = subprocess.run(
            [str(self.python), *map(str, words)], cwd=self.folder, text=True,
            env=self.environment | variables, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        assert "Traceback" not in done.stdout
        return done.stdout


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shutil.copy2(ROOT / "train.py", tmp_path)
    (tmp_path / "ours.yaml").write_text(yaml.safe_dump(OURS))
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(OF_A_PROGRAM))
    (tmp_path / "fit.py").write_text(PROGRAM)
    (tmp_path / "function.py").write_text(FUNCTION)
    return Shell(tmp_path)


def test_a_run_stays_on_this_machine(shell: Shell, text_file: Path) -> None:
    output = shell.run("train", text_file, *FLAGS, "--output-dir=out")
    assert output.count(f"{MISSING}, so this run stays on this machine") == 1
    again = ("train", text_file, *FLAGS, "--output-dir=out", "--overwrite")
    assert MISSING not in shell.run(*again, "--no-wandb")
    assert MISSING not in shell.run(*again, WANDB_MODE="disabled")
    assert (shell.folder / "out/best.pt").exists()
    assert shell.run("sync", "out", code=2) == f"fundamentallm: sync: {MISSING}\n"


def test_a_sweep_of_a_program_reads_its_lines(shell: Shell) -> None:
    shell.run("sweep", "fit.yaml")
    rows = (shell.folder / "runs/fit/run-0002/metrics.jsonl").read_text().splitlines()
    assert list(map(json.loads, rows)) == [{"step": n, "loss": 0.25 + n} for n in range(3)]


@pytest.mark.slow
def test_all_that_is_local_works(shell: Shell, text_file: Path) -> None:
    shell.run("train", text_file, *FLAGS, "--output-dir=out", "--no-wandb")
    shell.run("generate", "out", "--max-tokens=5")
    shell.run("evaluate", "out", text_file)
    shell.run("check", "ours.yaml", text_file, code=1)  # it warns: the model is tiny
    shell.run("sweep", "ours.yaml", text_file)
    for command in ("report", "explain", "next", "list"):
        shell.run(command, "runs/ours")
    shell.run("export", "runs/ours", "--csv")
    shell.run("compare", "runs/ours/run-0001", "runs/ours/run-0002")
    shell.run("agent", "runs/ours", "--data", text_file)
    assert "best 1" in shell.run_python("function.py")


@pytest.mark.slow
def test_what_needs_the_client_says_so(shell: Shell, text_file: Path) -> None:
    sweep = shell.run("sweep", "ours.yaml", text_file, "--wandb=offline", code=2)
    assert sweep.endswith(f"\nfundamentallm: this sweep sends its runs to W&B, but {MISSING}\n")
    assert not (shell.folder / "runs").exists()
    values = shell.folder / "config.yaml"
    values.write_text("learning_rate: {value: 0.001}\n")
    under_agent = {
        "WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "r1", "WANDB_SWEEP_PARAM_PATH": str(values),
    }  # fmt: skip
    output = shell.run("train", text_file, *FLAGS, code=2, **under_agent)
    assert f"{MISSING}, so this run would train for nothing" in output
