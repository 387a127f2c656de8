"""`fundamentallm stop`, as people use it."""

from __future__ import annotations

from pathlib import Path

from conftest import Run
from tiny_sweep import FLAGS, grid, start, summaries, trials, wait_for


def test_a_stopped_run_keeps_its_score_and_the_next_one_starts(
    run: Run, tmp_path: Path, text_file: Path
) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=1, seeds=3, steps=200_000, every=20))
    folder = tmp_path / "runs/t"
    sweep = start(tmp_path, "sweep", "t.yaml", text_file.name, "--workers", 2, "--", *FLAGS)
    wait_for(lambda: all((folder / name / "last.pt").exists() for name in ("run-0001", "run-0002")))
    done = run("stop", "runs/t", "run-0002")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "run-0002 stops: its worker ends it within seconds\n"
    wait_for(lambda: (folder / "run-0003/metrics.jsonl").exists())  # its slot is free
    again = run("stop", "runs/t", "2")
    assert again.returncode == 2
    assert again.stderr == "run-0002 is not running: stopped early\n"
    done = run("stop", "runs/t", "runs/t/run-0001", 3)
    assert done.returncode == 0, done.stderr
    said = sweep.communicate(timeout=120)[0]
    assert sweep.returncode == 0, said
    assert said.count("stopped early by hand, val_loss") == 3
    assert "hyperband" not in said
    for summary in summaries(folder).values():
        assert (summary["status"], summary["stopped_by"]) == ("interrupted", "hand")
    for trial in trials(folder):
        assert trial.state.name == "PRUNED"
        assert trial.value == min(trial.intermediate_values.values())
    assert "hyperband" not in run("explain", "runs/t").stdout
    assert run("agent", "runs/t").returncode == 0  # nothing is left to do
    assert len(trials(folder)) == 3


def test_a_stop_before_the_first_row_is_heeded(run: Run, tmp_path: Path, text_file: Path) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=1, seeds=1, steps=200_000, every=100_000))
    folder = tmp_path / "runs/t"
    sweep = start(tmp_path, "sweep", "t.yaml", text_file.name, "--", *FLAGS)
    wait_for(lambda: (folder / "run-0001").exists())
    assert run("stop", "runs/t", "1").returncode == 0
    said = sweep.communicate(timeout=120)[0]
    assert sweep.returncode == 0, said
    assert "stopped early by hand" in said
    sweep = start(tmp_path, "agent", "runs/t")
    assert sweep.wait(timeout=120) == 0
    assert len(trials(folder)) == 1
