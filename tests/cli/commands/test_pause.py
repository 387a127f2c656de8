"""`fundamentallm pause` and `resume`, as people use them."""

from __future__ import annotations

import signal
from pathlib import Path

from conftest import Run
from tiny_sweep import FLAGS, grid, start, trials, wait_for


def test_workers_wait_while_a_sweep_is_paused(run: Run, tmp_path: Path, text_file: Path) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=2, seeds=2, steps=300, every=50))
    folder = tmp_path / "runs/t"
    sweep = start(tmp_path, "sweep", "t.yaml", text_file.name, "--workers", 2, "--", *FLAGS)
    wait_for(lambda: (folder / "run-0001/metrics.jsonl").exists())
    done = run("pause", "runs/t")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("runs/t is paused: runs in progress finish")
    begun = len(trials(folder))
    wait_for(lambda: all(trial.state.is_finished() for trial in trials(folder)))
    agent = start(tmp_path, "agent", "runs/t", "--workers", 1)
    assert agent.stdout is not None
    lines = iter(agent.stdout.readline, "")
    assert any(
        f"paused: no new run starts; go on with: fundamentallm resume {folder}" in line
        for line in lines
    )
    agent.send_signal(signal.SIGINT)
    agent.communicate(timeout=120)
    assert agent.returncode == 130
    assert sweep.poll() is None
    assert len(trials(folder)) == begun < 4
    assert run("resume", "runs/t").stdout.startswith("runs/t is resumed; workers that wait go on")
    said = sweep.communicate(timeout=120)[0]
    assert sweep.returncode == 0, said
    assert "the sweep is resumed" in said
    assert [trial.state.name for trial in trials(folder)] == ["COMPLETE"] * 4
    assert run("resume", "runs/t").stdout.startswith("runs/t was not paused")
