"""A view and a report of a sweep on W&B: the real library, the test server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from results_on_disk import FOREIGN, SWEEP, write_foreign_run, write_sweep
from wandb_client import Client
from wandb_server import Run, Sweep, WandbServer
from wandb_server.graphql import NotFoundError
from wandb_server.store import View

from fundamentallm.metrics import METRICS
from fundamentallm.report.read_runs import read_results
from fundamentallm.report.results import Results

# The library declares its models with pydantic's old decorators.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb_workspaces")

OURS = {
    "program": "train.py",
    "name": "lr \U0001f680 and batch",
    "method": "random",
    "metric": {"name": "val_loss", "goal": "minimize"},
    "parameters": {
        "learning_rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        "batch_size": {"values": [16, 32]},
        "seed": {"value": 1},
    },
}
AGAIN = """
import sys
import wandb_workspaces.workspaces as ws
import wandb_workspaces.reports.v2 as wr
view, report = sys.argv[1:]
ws.Workspace.from_url(view).save()
loaded = wr.Report.from_url(report)
loaded.width = "fixed"  # the only part that the library does not load
loaded.save()
"""
WITHOUT = """
import sys
sys.modules["wandb_workspaces"] = None  # as if it were not installed
from fundamentallm.cli.main import main
main(["workspace", "a/b/c"])
"""


def sweep_on(server: WandbServer, runs: int = 12) -> Sweep:
    """Store a sweep of our trainer as its runs would have left it."""
    sweep = Sweep("p", "abc12345", OURS, state="FINISHED")
    server.store.sweeps["p", sweep.name] = sweep
    for number in range(runs):
        loss = 2 + (number - 6) ** 2 / 40
        config = {
            "learning_rate": 1e-4 * 1.5**number, "batch_size": 16 + 16 * (number % 2),
            "seed": 1, "data": "built-in", "data_sha256": "0",
        }  # fmt: skip
        summary = {"status": "done", "step": 40, "val_loss": loss, "best_val_loss": loss}
        run = Run("p", f"id{number}", f"run {number}", "finished", sweep=sweep.name, starts=1)
        run.config = {name: {"value": value} for name, value in config.items()}
        run.history = [{"_step": step, "val_loss": loss + 1 / step} for step in (10, 20, 40)]
        run.history_lines, run.summary = 3, summary
        server.store.runs["p", run.name] = run
        sweep.runs.append(run)
    return sweep


def pages(server: WandbServer) -> tuple[View, View]:
    """Return the only view and the only report."""
    view, report = sorted(server.store.views.values(), key=lambda view: view.kind)
    assert (view.kind, report.kind) == ("project-view", "runs")
    return view, report


def panels_of(view: View) -> dict[str, list[dict[str, Any]]]:
    """Return the panels of a saved view by section."""
    sections = json.loads(view.spec)["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in sections}


def without_ids(content: Any) -> Any:
    """Return content without the random ids of panels and sets of runs."""
    if isinstance(content, list):
        return [without_ids(each) for each in content]
    if isinstance(content, dict):
        return {k: without_ids(v) for k, v in content.items() if k not in ("id", "__id__")}
    return content


def text_of(block: dict[str, Any]) -> str:
    return "".join(each.get("text", "") for each in block.get("children", []))


@pytest.mark.slow
def test_a_view_and_a_report(tmp_path: Path) -> None:
    with WandbServer() as server:
        client = Client(server, tmp_path)
        sweep = sweep_on(server)
        said = client.run("fundamentallm", "explain", sweep.path).stdout
        done = client.run("fundamentallm", "workspace", sweep.path)
        urls = [line.rpartition(": ")[2] for line in done.stdout.splitlines()[1:]]
        view, report = pages(server)
        specs = [json.loads(view.spec), json.loads(report.spec)]
        client.run(sys.executable, "-c", AGAIN, *urls)
        assert (view.saves, report.saves) == (2, 2)
        loaded = [json.loads(view.spec), json.loads(report.spec)]
        again = client.run("fundamentallm", "workspace", sweep.path).stdout.splitlines()
        assert pages(server) == (view, report)
        assert (view.saves, report.saves) == (3, 3)
        assert server.refused == []
    assert again[1:] == [f"updated view: {urls[0]}", f"updated report: {urls[1]}"]
    assert done.stdout.splitlines()[0] == "writing a saved view and a report to tester/p on W&B"
    assert [line.partition(":")[0] for line in done.stdout.splitlines()[1:]] == [
        "new view",
        "new report",
    ]
    assert loaded == specs, "the library loads all that it saved"
    assert view.display_name == "Sweep lr and batch (abc12345), by fundamentallm"

    (runs,) = specs[0]["section"]["runSets"]
    (wanted,) = runs["filters"]["filters"]
    assert (wanted["key"]["name"], wanted["value"]) == ("sweep", "abc12345")
    (order,) = runs["sort"]["keys"]
    assert order["ascending"]
    assert order["key"] == {"section": "summary", "name": "best_val_loss"}
    settings = ["config:batch_size.value", "config:learning_rate.value"]
    assert runs["runFeed"]["columnOrder"] == [
        "run:displayName",
        "summary:best_val_loss",
        *settings,
    ]
    panels = panels_of(view)
    assert list(panels) == ["Settings", "Loss", "Optimizer", "Speed and memory", "Samples"]
    parallel, importance = panels["Settings"]
    axes = [axis["accessor"] for axis in parallel["config"]["columns"]]
    assert axes == [*settings, "summary:best_val_loss"]
    assert [axis.get("log") for axis in parallel["config"]["columns"]] == [None, True, None]
    assert importance["config"]["targetKey"] == "best_val_loss"
    assert panels["Samples"][0]["config"]["mediaKeys"] == ["samples"]
    curves = [p["config"] for group in panels.values() for p in group if "xAxis" in p["config"]]
    assert curves[0]["metrics"] == ["val_loss"]
    assert {name for curve in curves for name in curve["metrics"]} == {*METRICS} - {
        "epoch",
        "tokens",
    }
    assert {curve["xAxis"] for curve in curves} == {"epoch"}, "steps of other sizes do not compare"
    assert "smoothingWeight" not in curves[0]
    assert [c["metrics"][0] for c in curves if c.get("yLogScale")] == [
        "optim/learning_rate",
        "optim/grad_norm",
    ]

    blocks = specs[1]["blocks"]
    names = [text_of(block) for block in blocks]
    explained = names[2 : names.index("Settings")]
    assert " ".join(" ".join(explained).split()) == " ".join(said.split())
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    in_report = [grid["panelBankSectionConfig"]["panels"] for grid in grids]
    assert without_ids(in_report) == without_ids(list(panels.values()))
    assert [grid["hideRunSets"] for grid in grids] == [False, True, True, True, True]
    for grid in grids:
        assert grid["runSets"][0]["filters"] == runs["filters"]
        assert grid["runSets"][0]["sort"] == runs["sort"]


@pytest.mark.nightly
def test_a_second_call_replaces_both_and_renamed_ones_stay(tmp_path: Path) -> None:
    with WandbServer() as server:
        client = Client(server, tmp_path)
        sweep = sweep_on(server)
        for number in range(4):  # the server gives three to a page
            other = View("p", f"V{number}", f"nw-{number}-v", "project-view", spec="{}")
            server.store.views[other.id] = other
        (tmp_path / sweep.path).mkdir(parents=True)  # a folder of this name is none of its sources
        client.run("fundamentallm", "workspace", sweep.path)
        others = [server.store.views[f"V{number}"] for number in range(4)]
        view, report = [each for each in server.store.views.values() if each not in others]
        colored = json.loads(view.spec)
        colored["section"]["customRunColors"] = {"id6": "#ff0000"}
        colored["section"]["panelBankConfig"]["sections"] = []
        view.spec = json.dumps(colored)
        sweep.runs[0].summary["best_val_loss"] = 1.5
        second = client.run("fundamentallm", "workspace", sweep.path).stdout
        assert [line.partition(":")[0] for line in second.splitlines()[1:]] == [
            "updated view",
            "updated report",
        ]
        assert (view.saves, report.saves, len(server.store.views)) == (2, 2, 6)
        assert len(panels_of(view)) == 5
        assert json.loads(view.spec)["section"]["customRunColors"] == {"id6": "#ff0000"}
        kept = [view.spec, report.spec]
        view.display_name, report.display_name = "mine", "my report"
        client.run("fundamentallm", "workspace", sweep.path)
        assert [view.spec, report.spec] == kept
        assert len(server.store.views) == 8
        assert all(other.saves == 0 for other in others)
        assert server.refused == []


@pytest.mark.nightly
def test_a_view_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with WandbServer() as server:
        client = Client(server, tmp_path)
        sweep = sweep_on(server)
        title = "Sweep lr and batch (abc12345), by fundamentallm"
        old = View("p", "V1", "nw-1-v", "project-view", title, spec='{"version": 9}')
        server.store.views[old.id] = old
        output = client.run("fundamentallm", "workspace", sweep.path, code=2).stdout
        assert list(server.store.views.values()) == [old]
    assert old.saves == 0
    assert f"the view '{title}' could not be read from W&B (" in output
    assert output.endswith("; rename it there to get a new one\n")


@pytest.mark.nightly
def test_wandb_goes_away_after_the_view(tmp_path: Path) -> None:
    with WandbServer() as server:
        client = Client(server, tmp_path)
        sweep = sweep_on(server)
        save = server.operations.upsertView

        def save_and_refuse(variables: dict[str, Any]) -> dict[str, Any]:
            server.operations.ProjectInternalId = refuse
            return save(variables)

        def refuse(variables: dict[str, Any]) -> dict[str, Any]:
            raise NotFoundError("gone")

        server.operations.UpsertView2 = save_and_refuse
        lines = client.run("fundamentallm", "workspace", sweep.path, code=2).stdout.splitlines()
        assert len(server.store.views) == 1
    assert lines[1].startswith("new view: http://127.0.0.1")
    assert lines[2].startswith("fundamentallm: the report could not be saved on W&B")
    assert lines[2].endswith("; the view is there: run the same command again")
    assert len(lines) == 3


def test_without_the_library(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        "fundamentallm: workspace needs wandb_workspaces, which is not installed; "
        "pip install 'fundamentallm[workspace]'\n"
    )


def test_a_folder_is_no_sweep_on_wandb(run: Callable[..., Any]) -> None:
    done = run("workspace", "runs/lr")
    assert done.returncode == 2
    assert "give a sweep on W&B: ENTITY/PROJECT/SWEEP" in done.stderr


def columns_in(results: Results) -> list[dict[str, Any]]:
    """Return the axes of the parallel coordinates as they are sent."""
    from fundamentallm.report.wandb_panels import sections_of

    model = sections_of(results)[0].panels[0]._to_model()
    return model.model_dump(by_alias=True, exclude_none=True)["config"]["columns"]


def test_another_program_has_its_own_names(tmp_path: Path) -> None:
    from fundamentallm.report.wandb_panels import curves_left_out, ranked_by, sections_of

    text = FOREIGN.replace("  data:", "  net.width: {values: [1, 2]}\n  data:")
    (tmp_path / "sweep.yaml").write_text(text)
    for number in range(6):
        config = {"optimizer.lr": 10.0 ** -(1 + number % 3), "net.width": 1, "data": "small"}
        rows = [{"eval/acc": 0.1 * i, "loss": 1 / i, "eval/f1": 0.2} for i in (1, 2, 3)]
        rows[-1]["once"] = 1.0
        summary = {"eval/acc.max": 0.3}
        write_foreign_run(tmp_path / f"run-{number}", config, rows, summary=summary)
    results = read_results([tmp_path])
    assert ranked_by(results) == "eval/acc.max"
    assert columns_in(results) == [
        {"accessor": "config:data.value", "displayName": "data"},
        {"accessor": "config:net.width.value", "displayName": "net.width"},
        {"accessor": "config:optimizer.value.lr", "displayName": "optimizer.lr", "log": True},
        {"accessor": "config:random_seed.value", "displayName": "random_seed"},
        {"accessor": "summary:eval/acc.max"},
    ]
    sections = sections_of(results)[1:]
    titles = {section.title: [panel.y for panel in section.panels] for section in sections}
    assert titles == {"eval": [["eval/acc"], ["eval/f1"]], "Metrics": [["loss"]]}
    assert {panel.x for section in sections for panel in section.panels} == {"Step"}
    assert curves_left_out(results) == 0


def test_a_program_with_very_many_metrics(tmp_path: Path) -> None:
    from fundamentallm.report.wandb_panels import MOST_CURVES, curves_left_out, sections_of

    (tmp_path / "sweep.yaml").write_text(FOREIGN)
    row = {f"layer/{n}": float(n) for n in range(MOST_CURVES + 20)} | {"eval/acc": 0.5}
    write_foreign_run(tmp_path / "run-1", {"data": "small"}, [row, row])
    results = read_results([tmp_path])
    curves = [panel for section in sections_of(results)[1:] for panel in section.panels]
    assert len(curves) == MOST_CURVES
    assert curves[0].y == ["eval/acc"]
    assert curves_left_out(results) == 21


def test_choices_among_mappings_are_shown_by_their_members(tmp_path: Path) -> None:
    text = SWEEP.replace("  seed:", "  shape: {values: [{num_heads: 2}, {num_heads: 4}]}\n  seed:")
    write_sweep(tmp_path / "ours", {0.001: [1.5, 1.6]}, text)
    accessors = [axis["accessor"] for axis in columns_in(read_results([tmp_path / "ours"]))]
    assert "config:shape.value.num_heads" in accessors

    theirs = tmp_path / "theirs"
    theirs.mkdir()
    values = "[{name: sgd}, {name: adam, betas: {first: 0.9}}]"
    text = FOREIGN.replace("  data:", f"  opt: {{values: {values}}}\n  data:")
    (theirs / "sweep.yaml").write_text(text)
    write_foreign_run(theirs / "run-1", {"opt.name": "sgd"}, [{"eval/acc": 0.5}])
    accessors = [axis["accessor"] for axis in columns_in(read_results([theirs]))]
    assert {"config:opt.value.name", "config:opt.value.betas.first"} <= {*accessors}


def test_titles_have_no_more_than_the_library_takes(tmp_path: Path) -> None:
    from fundamentallm.report.workspace import SweepAddress, title_of

    address = SweepAddress("e", "p", "abc12345")
    for name, title in {
        "": "Sweep abc12345, by fundamentallm",
        "\U0001f680 a\x1b  b": "Sweep a b (abc12345), by fundamentallm",
        "x" * 300: f"Sweep {'x' * 60} (abc12345), by fundamentallm",
    }.items():
        folder = tmp_path / str(len(name))
        text = yaml.safe_dump({"name": name}) + SWEEP
        results = read_results([write_sweep(folder, {0.1: [1.5]}, text)])
        assert title_of(results, address) == title


def test_the_curves_of_equal_steps_are_shown_by_step(tmp_path: Path) -> None:
    from fundamentallm.report.wandb_panels import x_axis

    results = read_results([write_sweep(tmp_path, {0.001: [1.5, 1.6], 0.01: [1.7, 1.8]})])
    assert x_axis(results) == "Step"
