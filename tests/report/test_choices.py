"""A mapping as a value is one setting, with its members inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from results_on_disk import write_foreign_run, write_run

from fundamentallm.report.comparison import compare_runs
from fundamentallm.report.explain import explain
from fundamentallm.report.next_sweep import next_sweep
from fundamentallm.report.page import make_page
from fundamentallm.report.read_runs import read_results
from fundamentallm.report.results import Results
from fundamentallm.report.stored_runs import with_stored_runs
from fundamentallm.status import RunStatus
from fundamentallm.sweep.file.sweep_file import read_sweep
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.records import Run, Trial
from fundamentallm.sweep.store.sweep_folder import SweepFolder

HEAD = "method: grid\nmetric: {name: val_loss}\nparameters:\n  seed: {values: [0, 1, 2]}\n"
OURS = [{"lr_schedule": "cosine", "beta2": 0.95}, {"lr_schedule": "constant"}, {"beta2": 0.9}]
THEIRS = [{"optimizer": "adamw", "betas": [0.9, 0.99]}, {"optimizer": {"name": "sgd"}}, "lion"]
DEFAULTS = {"lr_schedule": "constant", "beta2": 0.99, "learning_rate": 0.01}


def ours(folder: Path, name: str = "choice") -> Path:
    """Write a sweep whose first choice is the best, by far."""
    folder.mkdir()
    file = f"program: train.py\n{HEAD}  {name}: {{values: {OURS}}}\n"
    (folder / "sweep.yaml").write_text(file + "  dropout: {values: [0, 0.1]}\n")
    number = 0
    for choice, loss in zip(OURS, (1.2, 1.5, 1.9), strict=True):
        for seed in range(3):
            for dropout in (0.0, 0.1):
                number += 1
                settings = {**DEFAULTS, **choice, "seed": seed, "dropout": dropout}
                losses = [4.0, loss + 0.002 * seed + 0.001 * (number % 2)]
                write_run(folder / f"run-{number:04}", settings, losses)
    return folder


def theirs(folder: Path) -> Path:
    """Write such a sweep of another program, whose config W&B flattens."""
    folder.mkdir()
    file = (
        f"program: x.py\n{HEAD}  opt: {{values: {THEIRS}}}\n  sizes: {{values: [[64], [8, 8]]}}\n"
    )
    (folder / "sweep.yaml").write_text(file)
    flat: list[dict[str, Any]] = [
        {"opt.optimizer": "adamw", "opt.betas": [0.9, 0.99]},
        {"opt.optimizer.name": "sgd"},
        {"opt": "lion"},
    ]
    number = 0
    for choice, loss in zip(flat, (1.2, 1.5, 1.9), strict=True):
        for seed in range(3):
            for sizes in ([64], [8, 8]):
                number += 1
                config = {**choice, "seed": seed, "sizes": sizes, "at": number}
                row = {"val_loss": loss + 0.002 * seed + 0.001 * (number % 2)}
                write_foreign_run(folder / f"run-{number:04}", config, [row])
    return folder


def says(results: Results) -> dict[str, str]:
    return {f"{claim.rule}:{claim.about}": claim.says for claim in explain(results)}


@pytest.mark.parametrize("name", ["choice", "beta2"])
def test_ours(tmp_path: Path, name: str) -> None:
    results = read_results([ours(tmp_path / "s", name)])
    key = name if name == "choice" else "lr_schedule+beta2"
    assert results.notes == []
    assert sorted(results.varied) == sorted([key, "dropout", "seed"])
    assert len(results.configurations) == 6
    assert [run.settings[key] for run in results.runs[::6]] == OURS
    found = says(results)
    assert f"{key} matters" in found[f"matters:{key}"]
    assert "best: cosine, beta2=0.95" in found[f"matters:{key}"]
    assert f"{key} (cosine, beta2=0.95)" in found["winner:"]
    assert not any(about in found for about in ("matters:beta2", "matters:lr_schedule"))
    assert "lr_schedule" not in found.get("held_fixed:", "").replace(key, "")
    assert "cosine, beta2=0.95" in make_page(results)
    assert {"beta2", key} & {row.name for row in compare_runs(results)} == {key}
    assert "without being searched" not in make_page(results)
    text = next_sweep(results)
    assert yaml.safe_load(text)["parameters"][name] == {"values": OURS[:1]}
    assert "left out as worse: beta2=0.9 (by 0.7000), constant (by" in text
    assert "--beta2" not in text  # it is no flag of all runs


def test_another_programs(tmp_path: Path) -> None:
    results = read_results([theirs(tmp_path / "s")])
    assert results.notes == []
    assert results.varied == ["opt", "seed", "sizes"]
    assert [run.settings["opt"] for run in results.runs[::6]] == THEIRS
    found = says(results)
    assert "best: adamw, betas=[0.9, 0.99]" in found["matters:opt"]
    assert "sizes" in found["matters:sizes"]
    assert "opt (adamw, betas=[0.9, 0.99])" in found["winner:"]
    assert "<html" in make_page(results)
    assert results.differing == ["opt", "seed", "sizes", "at"]  # and no member of opt
    found = next_sweep(results)
    assert yaml.safe_load(found)["parameters"]["opt"] == {"values": THEIRS[:1]}
    both = read_results([tmp_path / "s", theirs(tmp_path / "t")])
    assert both.varied == ["opt", "seed", "sizes"]


@pytest.mark.parametrize("is_ours", [True, False])
def test_runs_of_other_machines_have_their_choices(tmp_path: Path, is_ours: bool) -> None:
    folder = ours(tmp_path / "s") if is_ours else theirs(tmp_path / "s")
    sweep = read_sweep(folder / "sweep.yaml")
    space = SearchSpace(sweep, {"learning_rate": 0.01} if is_ours else {}, is_ours=is_ours)
    results = read_results([folder])
    (name,) = {"choice", "opt"} & set(results.varied)
    extra = {"dropout": 0.1} if is_ours else {"sizes": [64]}
    values = {name: (OURS if is_ours else THEIRS)[1], "seed": 2, **extra}
    trial = Trial(40, 40, values, RunStatus.DONE, "elsewhere:1", score=1.0)
    merged = with_stored_runs(results, SweepFolder(folder), space, [Run(40, (trial,))])
    (only,) = merged.runs
    assert only.settings[name] == values[name]
    assert merged.is_foreign is not is_ours
