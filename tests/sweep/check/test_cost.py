"""Cost of a sweep, measured on parts of its cheapest and dearest runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from fundamentallm.sweep.check import cost
from fundamentallm.sweep.check.cost import Corner, Costs, corners, measure_costs, wall_clock
from fundamentallm.sweep.check.probe import Effort
from fundamentallm.sweep.engine.concurrency import Resources
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.space import SearchSpace

START = "program: train.py\nmetric: {name: val_loss}\n"


@pytest.mark.parametrize(
    ("parameters", "ends"),
    [
        ("model_dim: {min: 100, max: 300}", [104, 296]),
        ("model_dim: {values: [64, 96, 128]}, num_heads: {values: [3]}", [96]),
        ("lr_schedule: {values: [step, cosine]}, model_dim: {values: [64, 8, 32]}", [8, 64]),
        ("model_dim: {values: [62, 63]}", []),
    ],
)
def test_corners_are_possible_runs(parameters: str, ends: list[int]) -> None:
    text = START + f"method: random\nrun_cap: 3\nparameters: {{{parameters}}}\n"
    tried = corners(SearchSpace(parse_sweep(text, "s"), {}))
    assert [settings["model_dim"] for settings in tried] == ends


def test_a_run_that_takes_too_long_to_try_has_a_bound(
    monkeypatch: pytest.MonkeyPatch, text: str, tmp_path: Path
) -> None:
    """Not one step is over in the time for it, so the run takes longer than so many."""
    (tmp_path / "long.txt").write_text(text * 10)
    monkeypatch.setattr(cost, "EFFORT", Effort(seconds=2.0))
    sweep = parse_sweep(
        START + "method: grid\nparameters: {num_layers: {values: [1, 48]}}\n", "s.yaml"
    )
    fixed = {"model_dim": 1024, "max_seq_len": 2048, "batch_size": 64, "max_steps": 1000}
    costs = measure_costs(SearchSpace(sweep, fixed), str(tmp_path / "long.txt"), Resources(1, 1))
    assert costs is not None
    assert (costs.dearest.at_least, costs.known) == (True, False)
    lines = "\n".join(costs.lines())
    assert re.search(r"dearest run \(.*num_layers 48.*\): more than \d", lines)
    assert "the sweep, 1 run at a time with 1 thread each: more than" in lines


@pytest.mark.parametrize(
    ("seconds", "at_once", "runs", "expected"),
    [
        ([10.0], 1, 3, 30.9),
        ([10.0], 2, 3, 20.6),
        ([1.0, 9.0], 2, 4, 11.9),
        ([10.0], 1, 5000, 51500),
    ],
)
def test_wall_clock(seconds: list[float], at_once: int, runs: int, expected: float) -> None:
    assert wall_clock(seconds, at_once, runs) == pytest.approx(expected, rel=0.1)


def test_the_disk_space_of_all_checkpoints_and_of_the_best() -> None:
    one = Corner({"max_steps": 100}, 1.0, None)
    costs = Costs(
        one, one, [], None, None, workers=1, threads=1, disk_gb=2.0, least_disk_gb=0.5,
        free_disk_gb=100.0, free_gb=8.0, stops_early=False,
    )  # fmt: skip
    line = "on disk: about 2.0 GB (with --keep best 500 MB); 100.0 GB are free"
    assert line in list(costs.lines())
    few = replace(costs, least_disk_gb=1.9)  # of a sweep of few runs
    assert "on disk: about 2.0 GB; 100.0 GB are free" in list(few.lines())
