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


def all_bytes(folder: Path) -> bytes:
    """Return the names and contents of all files below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return b"".join(str(path).encode() + path.read_bytes() for path in files)


def command_lines() -> bytes:
    """Return the command lines of all processes, as `ps` shows them."""
    lines: list[bytes] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except OSError:
            continue
    return b"".join(lines)


@pytest.mark.nightly
def test_a_sweep_leaves_no_secret(tmp_path: Path, text_file: Path) -> None:
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
        visible = command_lines()
        output = process.communicate(timeout=200)[0]
        assert process.returncode == DONE, output
        for command in ("report", "explain", "next", "compare"):
            done = subprocess.run(
                [sys.executable, "-m", "fundamentallm", command, "runs/tiny"],
                cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            output += done.stdout + done.stderr
        database.stop()  # errors must show no secret either
        failed = subprocess.run(
            [sys.executable, "-m", "fundamentallm", "agent", "runs/tiny"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert failed.returncode == 2
        output += failed.stdout + failed.stderr
        database.start()
    written = all_bytes(tmp_path)
    for secret in (key, token, database.password):
        assert secret.encode() not in written
        assert secret.encode() not in visible
        assert secret not in output


def test_a_flag_with_a_secret_from_a_variable_is_dropped(tmp_path: Path, text_file: Path) -> None:
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
    assert token.encode() not in all_bytes(tmp_path)


@pytest.mark.parametrize("answer", [200, 401])
def test_an_online_run_leaves_no_key(
    answer: int, tmp_path: Path, text_file: Path, tiny_flags: list[str]
) -> None:
    key = secrets.token_hex(20)
    with WandbServer() as wandb:
        client = Client(wandb, tmp_path, WANDB_API_KEY=key)
        if answer != 200:
            wandb.status = answer
        output = client.train(text_file, *tiny_flags, "--output-dir=out").stdout
        assert bool(wandb.store.runs) == (answer == 200)
    assert key not in output
    assert key.encode() not in all_bytes(tmp_path)
