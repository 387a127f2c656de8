"""Sweeps of programs in the manner of real ones, with the real W&B client, offline, to their end.

Every number that a program logged is in its run's metrics.jsonl, its best one is the score, and
`report`, `explain` and `next` work on the sweep.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
from pathlib import Path
from typing import Any

import foreign
import pytest
import yaml
from tiny_sweep import metric_rows, trials, wait_for

METHODS = ("grid", "random", "bayes")
DEFAULT = {
    *(("json_lines", "grid"), ("metrics_file", "grid"), ("argparse_wandb", "bayes")),
}
SLOW = {
    *(("bash_script", "grid"), ("config_only", "grid"), ("hydra_overrides", "grid")),
    *(("launcher", "bayes"), ("lightning_like", "bayes"), ("summary_only", "random")),
}
PROGRAMS = sorted(
    {path.parent.name for path in foreign.PROGRAMS.glob("*/sweep.yaml")} - {"shows_start"}
)
"""Programs with metrics; `shows_start` is for the comparison with `wandb agent`."""
FLAGS = {"metrics_file": ["--metrics=log.jsonl"]}
HYPERBAND = {"type": "hyperband", "min_iter": 2}


def cases() -> list[Any]:
    """Return every program with every method, marked by the suite that runs it."""
    return [
        pytest.param(
            *case,
            id="-".join(case),
            marks=[] if case in DEFAULT else pytest.mark.slow if case in SLOW
            else pytest.mark.nightly,
        )
        for case in itertools.product(PROGRAMS, METHODS)
    ]  # fmt: skip


def need_hydra() -> None:
    if importlib.util.find_spec("hydra") is None:
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail("needs hydra-core, and REQUIRE_ALL=1 allows no skip")
        pytest.skip("hydra-core is not installed")


def grid_points(parameters: dict[str, Any], prefix: str = "") -> list[dict[str, Any]]:
    """Return every configuration of a grid in W&B's order, under flat names."""
    axes = []
    for name, entry in sorted(parameters.items()):
        if "parameters" in entry:
            axes.append(grid_points(entry["parameters"], f"{prefix}{name}."))
        else:
            values = entry["values"] if "values" in entry else [entry["value"]]
            axes.append([{prefix + name: value} for value in values])
    return [
        {name: value for part in point for name, value in part.items()}
        for point in itertools.product(*axes)
    ]


@pytest.mark.parametrize(("name", "method"), cases())
def test_a_sweep_runs_to_its_end_and_keeps_every_number(
    name: str, method: str, tmp_path: Path
) -> None:
    if name == "hydra_overrides":
        need_hydra()
    file = foreign.place(name, tmp_path)
    content = yaml.safe_load(file.read_text())
    points = grid_points(content["parameters"])
    if method != "grid":
        points = points[:3]
        changed = foreign.ranges(content["parameters"])
        rule = HYPERBAND if method == "bayes" else None
        foreign.change(
            file, method=method, parameters=changed, run_cap=len(points), early_terminate=rule
        )
    output = foreign.run(tmp_path, "sweep", file, *FLAGS.get(name, []))
    folder = tmp_path / "runs/sweep"
    runs = foreign.run_folders(folder)
    assert len(runs) == len(points), output
    configs = [foreign.config(run) for run in runs]
    if method == "grid":
        assert [{n: each[n] for n in points[0]} for each in configs] == points
    metric = content["metric"]
    best_of = max if metric["goal"] == "maximize" else min
    by_number = {trial.user_attrs["run"]: trial for trial in trials(folder)}
    for number, run in enumerate(runs):
        summary = foreign.summary(run)
        assert summary["program"]
        if name == "summary_only":
            error = abs(configs[number]["lr"] - 0.1)
            kept = {"score": 1 - error, "final.error": error}
            assert summary["summary"].items() >= kept.items()
            assert by_number[number].value == 1 - error
            continue
        foreign.check_numbers(run)
        logged = [row[metric["name"]] for row in metric_rows(run) if metric["name"] in row]
        assert by_number[number].value == best_of(logged)
    assert metric["name"] in foreign.run(tmp_path, "explain", folder)
    assert (folder / "report.html").exists()
    wait_for(lambda: not foreign.programs(tmp_path))


@pytest.mark.slow
def test_the_next_sweep_of_a_foreign_program(tmp_path: Path) -> None:
    file = foreign.place("json_lines", tmp_path)
    parameters = {"lr": {"min": 0.001, "max": 0.2}, "epochs": {"value": 5}}
    foreign.change(file, method="random", parameters=parameters, run_cap=10)
    foreign.run(tmp_path, "sweep", file)
    text = foreign.run(tmp_path, "next", "runs/sweep")
    following = yaml.safe_load(text)
    assert (following["program"], following["metric"]["name"]) == ("train.py", "loss")
    assert following["parameters"].keys() == parameters.keys()
    assert following["parameters"]["lr"]["min"] > 0.001
    (tmp_path / "next.yaml").write_text(text)
    assert "python train.py --epochs=5 --lr=" in foreign.run(
        tmp_path, "sweep", "next.yaml", "--dry-run"
    )


def test_a_metric_that_the_program_never_logs_is_named(tmp_path: Path) -> None:
    file = foreign.place("json_lines", tmp_path)
    foreign.change(file, metric={"name": "los", "goal": "minimize"}, run_cap=1)
    output = foreign.run(tmp_path, "sweep", file)
    assert "los was never logged; did you mean loss?" in output
