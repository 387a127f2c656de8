"""Every file in sweeps/ can be run as it is, over documented ranges, and comes to an end."""

from __future__ import annotations

import itertools
import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, nightly

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.builtin_corpus import builtin_corpus

FILES = sorted((ROOT / "sweeps").glob("*.yaml"))
SEARCHES = ("random", "bayes", "full", "coarse", "fine")
GRIDS = ["batch_size", "dropout", "model_size", "seq_len", "schedule", "grid", "quickstart"]
CHARACTERS = len(builtin_corpus())
SMALLER_ON_PURPOSE = ("quickstart",)


def load(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text("utf-8"))


def corners(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """Every point that `values` allow, with both ends of what is drawn from a range."""
    axes = [
        spec["values"] if "values" in spec
        else [spec["value"]] if "value" in spec
        else [spec["min"], spec["max"]]
        for spec in sweep["parameters"].values()
    ]  # fmt: skip
    return [
        dict(zip(sweep["parameters"], point, strict=True)) for point in itertools.product(*axes)
    ]


def cost(point: dict[str, Any]) -> float:
    """Parameters times tokens, near enough to compare."""
    config = Config(**point)
    tokens = config.epochs * CHARACTERS * (1 - config.val_split)
    if config.max_steps:
        tokens = min(tokens, config.max_steps * config.batch_size * config.max_seq_len)
    return 12 * config.num_layers * config.model_dim**2 * tokens


def test_none_is_missing() -> None:
    assert {file.stem for file in FILES} == {"lr", *GRIDS, *SEARCHES}
    page = (ROOT / "sweeps/README.md").read_text("utf-8")
    assert all(f"({file.name})" in page for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_what_it_says(file: Path) -> None:
    sweep, text = load(file), file.read_text("utf-8")
    assert text.startswith("# ")
    assert "?" in text.partition("program:")[0] or file.stem in SEARCHES
    assert re.search(r"^# Costs (up to )?\d+ runs", text, re.MULTILINE)
    assert sweep["metric"] == {"name": "val_loss", "goal": "minimize"}
    ends = sweep["method"] == "grid" or sweep["run_cap"] > 0
    assert ends
    points = corners(sweep)
    said = re.search(r"^# Costs (?:up to )?(\d+) runs", text, re.MULTILINE)
    assert said is not None
    assert int(said[1]) == sweep.get("run_cap", len(points))
    for point in points:
        config = Config(**point)  # no combination is impossible
        assert config.warnings() == [] or file.stem in SMALLER_ON_PURPOSE


@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    [file if file.stem in ("lr", "schedule", "seq_len") else nightly(file) for file in FILES],
    ids=lambda file: file.stem,
)
def test_its_cheapest_point_trains(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = load(file)
    shortest = [point | {"max_steps": 2} for point in corners(sweep)]
    point = min(shortest, key=cost)
    assigned = tmp_path / "config-abc.yaml"
    content = {"wandb_version": 1, **{name: {"value": v} for name, v in point.items()}}
    assigned.write_text(yaml.safe_dump(content), "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(assigned))
    repeated = [f"--{name}={value}" for name, value in point.items()]
    monkeypatch.setattr(sys, "argv", [sweep["program"], *repeated])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / sweep["program"]), run_name="__main__")
    assert end.value.code == 0
    summary = json.loads((tmp_path / "runs/abc/summary.json").read_text())
    assert (summary["status"], summary["step"]) == ("done", 2)
    trained = yaml.safe_load((tmp_path / "runs/abc/config.yaml").read_text())
    assert {name: trained[name] for name in point} == point
