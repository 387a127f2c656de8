"""Promise 10: no secret is written anywhere, shown, or passed on a command line."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from postgres import server
from tiny_sweep import FLAGS, grid, wait_for
from wandb_client import Client
from wandb_server import WandbServer

from fundamentallm.exit_codes import DONE


def everything(folder: Path) -> bytes:
    """All bytes of all files below a folder, names too."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return b"".join(str(path).encode() + path.read_bytes() for path in files)


def command_lines() -> bytes:
    """What `ps` shows of every process."""
    found: list[bytes] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    return b"".join(found)


@pytest.mark.nightly
def test_no_secret_of_a_sweep_is_left_anywhere(tmp_path: Path, text_file: Path) -> None:
    key, token = secrets.token_hex(20), secrets.token_hex(16)
    shutil.copy2(ROOT / "train.py", tmp_path)
    (tmp_path / "tiny.yaml").write_text(
        grid(rates=2, seeds=1, steps=400, every=50)
        + 'command: ["${env}", "${interpreter}", "${program}", "--dropout=0.05", "${args}"]\n'
    )
    with server() as database, WandbServer() as wandb:
        client = Client(wandb, tmp_path)
        environment = client.environment | {
            "WANDB_API_KEY": key,
            "MY_TOKEN": token,
            "FUNDAMENTALLM_STORAGE": database.url,
        }
        words = ["sweep", "tiny.yaml", str(text_file), "--wandb", "offline", "--workers", "2"]
        process = subprocess.Popen(
            [sys.executable, "-m", "fundamentallm", *words, "--", *FLAGS],
            cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        wait_for((tmp_path / "runs/tiny/run-0001/metrics.jsonl").exists)
        time.sleep(1)
        seen = command_lines()
        said = process.communicate(timeout=200)[0]
        assert process.returncode == DONE, said
        for command in ("report", "explain", "next", "compare"):
            done = subprocess.run(
                [sys.executable, "-m", "fundamentallm", command, "runs/tiny"],
                cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            said += done.stdout + done.stderr
        database.stop()  # and what is said when it cannot be reached
        failed = subprocess.run(
            [sys.executable, "-m", "fundamentallm", "agent", "runs/tiny"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert failed.returncode == 2
        said += failed.stdout + failed.stderr
        database.start()
    left = everything(tmp_path)
    for secret in (key, token, database.password):
        assert secret.encode() not in left
        assert secret.encode() not in seen
        assert secret not in said


def test_what_a_variable_says_goes_with_a_flag_left_out(tmp_path: Path, text_file: Path) -> None:
    token = secrets.token_hex(16)
    shutil.copy2(ROOT / "train.py", tmp_path)
    (tmp_path / "tiny.yaml").write_text(
        grid() + 'command: ["${env}", "${program}", "--output-dir=${envvar:MY_TOKEN}", "${args}"]\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "fundamentallm", "sweep", "tiny.yaml", str(text_file), "--", *FLAGS],
        cwd=tmp_path, env={**os.environ, "MY_TOKEN": token}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--output-dir is ignored" in done.stderr
    assert token not in done.stdout + done.stderr
    assert token.encode() not in everything(tmp_path)


@pytest.mark.parametrize("answer", [200, 401])
def test_no_key_of_a_run_online_is_left_anywhere(
    answer: int, tmp_path: Path, text_file: Path, tiny_flags: list[str]
) -> None:
    key = secrets.token_hex(20)
    with WandbServer() as wandb:
        client = Client(wandb, tmp_path, WANDB_API_KEY=key)
        if answer != 200:
            wandb.status = answer
        said = client.train(text_file, *tiny_flags, "--output-dir=out").stdout
        assert bool(wandb.store.runs) == (answer == 200)
    assert key not in said
    assert key.encode() not in everything(tmp_path)
