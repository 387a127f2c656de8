"""Promise 7: no state of W&B changes results or exit codes, even with many runs at once."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tiny_sweep import FLAGS, grid, metric_rows, start, summaries
from wandb_client import VARYING, Client
from wandb_server import WandbServer


def rows(folder: Path) -> dict[str, list[dict[str, object]]]:
    """Return the rows of every run without the metrics that vary."""
    return {
        path.name: [{k: v for k, v in row.items() if k not in VARYING} for row in metric_rows(path)]
        for path in sorted(folder.glob("run-*"))
    }


def inject_faults(wandb: WandbServer, is_over: threading.Event, rng: random.Random) -> None:
    """Make the server fail in random ways, with quiet times between."""
    while not is_over.wait(rng.uniform(0.2, 1.5)):
        wandb.status = rng.choice([0, 0, 429, 500, 502, 401])
        wandb.delay = rng.choice([0.0, 0.0, 0.3])
    wandb.status, wandb.delay = 0, 0.0


@pytest.mark.nightly
def test_eight_workers_and_a_server_that_fails_at_random(tmp_path: Path, text_file: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(grid(rates=4, seeds=2, steps=600, every=100))
    command = ["sweep", "tiny.yaml", str(text_file), "--workers", "8"]
    process = start(tmp_path, *command, "--output-dir", "alone", "--", *FLAGS)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    is_over = threading.Event()
    with WandbServer() as wandb:
        limits = {"WANDB_INIT_TIMEOUT": "2", "WANDB_FINISH_TIMEOUT": "4"}
        client = Client(wandb, tmp_path, **limits)
        injector = threading.Thread(target=inject_faults, args=(wandb, is_over, random.Random(5)))
        injector.start()
        try:
            words = [*command, "--wandb", "online", "--output-dir", "shown", "--", *FLAGS]
            done = subprocess.run(
                [sys.executable, "-m", "fundamentallm", *words], cwd=tmp_path, text=True,
                env=client.environment, capture_output=True, check=False, timeout=500,
            )  # fmt: skip
        finally:
            is_over.set()
            injector.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert {each["status"] for each in summaries(tmp_path / "shown").values()} == {"done"}
    assert rows(tmp_path / "shown") == rows(tmp_path / "alone")
    assert len(rows(tmp_path / "alone")) == 8
