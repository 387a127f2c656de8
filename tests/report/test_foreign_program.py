"""Runs of another program are reported by their own names, metric and goal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml
from results_on_disk import FOREIGN, write_foreign_run, write_run, write_sweep

from fundamentallm.files.run_folder import RunFolder
from fundamentallm.report.comparison import compare_runs
from fundamentallm.report.explain import explain
from fundamentallm.report.next_sweep import next_sweep
from fundamentallm.report.page import make_page
from fundamentallm.report.read_runs import ReportError, read_results
from fundamentallm.report.results import Results
from fundamentallm.report.rules.claim import Claim
from fundamentallm.status import RunStatus
from fundamentallm.sweep.file.sweep_file import Metric, parse_sweep
from fundamentallm.sweep.store.records import score_of

Run = Callable[..., CompletedProcess[str]]
OUR_WORDS = ("val_loss", "nats", "refine", "perplexity", "generate", "optimizer step", "preset")
"""Words about our trainer, which mean nothing to another program."""


def sweep_of(folder: Path, *, best: float = 0.01, runs: int = 12, text: str = FOREIGN) -> Path:
    """Write a sweep whose accuracy falls with the distance of the rate from the best."""
    folder.mkdir(exist_ok=True)
    (folder / "sweep.yaml").write_text(text)
    for number in range(runs):
        rate = 10 ** (-4 + 3 * number / (runs - 1))
        top = 0.9 - 0.1 * math.log10(rate / best) ** 2
        config = {
            "optimizer.lr": rate, "data": ["small", "large"][number % 2], "batch_size": "32",
            "random_seed": 1 + number // 2 % 2, "dropout": 1.5, "epochs": "auto",
            "started": f"2026-11-30T12:00:{number:02}", "output_dir": f"out/{number}",
        }  # fmt: skip
        rows = [{"eval/acc": top * share, "loss": 1 - share} for share in (0.5, 0.8, 1.0)]
        write_foreign_run(folder / f"run-{number + 1:04}", config, rows)
    return folder


def claims_of(results: Results) -> dict[str, Claim]:
    return {f"{claim.rule}:{claim.about}": claim for claim in explain(results)}


def test_only_searched_parameters_are_compared(tmp_path: Path) -> None:
    results = read_results([sweep_of(tmp_path / "s")])
    assert results.notes == []
    assert results.varied == ["data", "optimizer.lr", "random_seed"]
    assert {"started", "output_dir"} < set(results.differing)
    assert results.fixed["dropout"] == 1.5
    found = claims_of(results)
    assert "matters" in found["matters:optimizer.lr"].says
    assert "data" in found["matters:data"].says
    assert "random_seed" not in found["winner:"].says
    assert found["winner:"].says.startswith("best eval/acc: 0.8992 (run-0008: data large, ")
    said = " ".join(claim.says for claim in found.values())
    assert not any(word in said for word in OUR_WORDS)
    assert "batch_size 32" in found["held_fixed:"].says
    assert "dropout" not in said  # the program's own, which no sweep file names
    page = make_page(results)
    assert "Settings that differ without being searched" in page
    assert "Its command:" in page
    assert "python other.py" in page
    words = page[: page.index('<script type="application/json"')]
    assert not any(
        word in words.partition("<footer")[0] for word in ("nats", "What the models", "num_layers")
    )
    rows = {row.name: row for row in compare_runs(results)}
    assert len(set(rows["started"].values)) == 12
    assert rows["loss at the end"].values == [0.0] * 12


def test_runs_of_two_sweeps_and_single_runs(tmp_path: Path) -> None:
    folders = [sweep_of(tmp_path / "a", best=0.01), sweep_of(tmp_path / "b", best=0.02)]
    results = read_results([*folders])
    assert results.sweep is None
    assert results.metric == Metric("eval/acc", "maximize")
    assert results.notes == []
    assert results.varied == ["data", "optimizer.lr", "random_seed"]
    singly = read_results([folders[0] / "run-0001", folders[0] / "run-0003"])
    assert singly.varied == ["optimizer.lr", "random_seed"]
    write_foreign_run(tmp_path / "alone", {"lr": 0.1, "started": 1}, [{"eval/acc": 0.1}])
    write_foreign_run(tmp_path / "other", {"lr": 0.2, "started": 2}, [{"eval/acc": 0.2}])
    alone = read_results([tmp_path / "alone", tmp_path / "other"], "eval/acc")
    assert alone.varied == ["lr", "started"]


def test_our_runs_beside_another_programs(tmp_path: Path) -> None:
    ours = write_sweep(tmp_path / "ours", {0.001: [1.5, 1.6], 0.01: [1.7, 1.8]})
    foreign = {"lr": 0.1, "batch_size": "32"}
    for number in range(3):
        write_foreign_run(tmp_path / f"x/run-{number}", foreign, [{"val_loss": 1.0 + number}])
    results = read_results([ours, tmp_path / "x"])
    found = claims_of(results)
    assert "another program" in found["other_losses:program"].says
    assert not any(name.startswith("matters") for name in found)
    assert "<html" in make_page(results)
    assert {"val_loss", "status"} <= {row.name for row in compare_runs(results)}


@pytest.mark.parametrize(
    ("goal", "rows", "summary", "score"),
    [
        ("maximize", [{"val.acc": 0.2}, {"val.acc": 0.6}, {"val.acc": 0.4}], {}, 0.6),
        ("minimize", [{"val.acc": 0.2}, {"val.acc": 0.6}], {"val.acc": 0.1}, 0.2),
        ("maximize", [{"loss": 3.0}], {"val.acc": 0.7}, 0.7),
        ("maximize", [], {"val.acc.max": 0.8, "val.acc.min": 0.1}, 0.8),
        ("minimize", [], {"val.acc.max": 0.8, "val.acc.min": 0.1}, 0.1),
        ("maximize", [], {"val.acc": "best"}, None),
        ("maximize", [{"val.acc": math.nan}, {"val.acc": 0.5}], {}, 0.5),
    ],
)
def test_scores(
    tmp_path: Path, goal: str, rows: list[Any], summary: dict[str, Any], score: float | None
) -> None:
    text = FOREIGN.replace("eval/acc, goal: maximize", f"val.acc, goal: {goal}")
    (tmp_path / "sweep.yaml").write_text(text)
    run = write_foreign_run(tmp_path / "run-0001", {"data": "x"}, rows, summary=summary)
    results = read_results([tmp_path])
    assert results.runs[0].score == score
    metric = parse_sweep(text, "x").ranks_by
    assert score_of(RunFolder(run), RunStatus.DONE, metric) == score
    assert score_of(RunFolder(run), RunStatus.STOPPED, metric) == score
    assert "<html" in make_page(results)


def test_a_sweep_without_a_metric_names_those_that_runs_have(tmp_path: Path) -> None:
    text = "\n".join(line for line in FOREIGN.splitlines() if "metric" not in line[:6])
    text = text.replace("early_terminate: {type: hyperband, min_iter: 2}\n", "")
    results = read_results([sweep_of(tmp_path / "s", text=text)])
    assert results.notes == [
        "the sweep file gives no metric; runs have eval/acc, loss, step; choose one with --metric"
    ]
    with pytest.raises(ReportError, match="the sweep file gives no metric"):
        next_sweep(results)
    chosen = read_results([tmp_path / "s"], "eval/acc")
    assert any("lower eval/acc counts as better" in note for note in chosen.notes)


def test_failed_runs_are_counted_with_a_reason(tmp_path: Path) -> None:
    folder = sweep_of(tmp_path / "s")

    def change(number: int, **changes: str) -> None:
        file = folder / f"run-{number:04}/summary.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    for number, reason in ((1, "exit code 3: boom"), (2, "exit code 3: boom"), (3, "timeout")):
        change(number, status="failed", stopped_by=reason)
    says = claims_of(read_results([folder]))["failed:"].says
    assert says == "3 of 12 runs failed, most often by: exit code 3: boom"
    change(4, status="running")
    found = claims_of(read_results([folder]))
    assert "1 unfinished" in found["in_progress:"].says


@pytest.mark.parametrize(("best", "low", "high"), [(0.003, 0.0003, 0.03), (0.1, 0.01, 1)])
def test_next(tmp_path: Path, run: Run, best: float, low: float, high: float) -> None:
    found = next_sweep(read_results([sweep_of(tmp_path / "s", best=best)]))
    before, after = yaml.safe_load(FOREIGN), yaml.safe_load(found)
    assert after.pop("name") == "s-next"
    rate = after["parameters"]["optimizer"]["parameters"].pop("lr")
    before["parameters"]["optimizer"]["parameters"].pop("lr")
    assert after == before  # program, command, metric, hyperband and constants
    assert rate["distribution"] == "log_uniform_values"
    assert rate["min"] == pytest.approx(low, rel=1)
    assert rate["max"] == pytest.approx(high, rel=1)
    assert "flags" not in found
    (tmp_path / "next.yaml").write_text(found)
    (tmp_path / "other.py").write_text("")
    errors = run("check", str(tmp_path / "next.yaml")).stderr
    assert "error" not in errors


@pytest.mark.parametrize(
    ("parameter", "losses", "within"),
    [
        ("{min: 0.0, max: 0.5}", {0.05 * k: 2 - 0.1 * k for k in range(11)}, (0, 1)),
        ("{min: 0.0, max: 0.5}", {0.05 * k: 0.1 * k for k in range(11)}, (0, 0.5)),
        ("{values: [1, 2, 3, 4]}", {1: 0.1, 2: 1.0, 3: 2.0, 4: 3.0}, (1, 3)),
        ("{values: [0.5, 0.7, 0.9]}", {0.5: 3.0, 0.7: 2.0, 0.9: 1.0}, (0.7, 1)),
        ("{values: [-2, 0, 2]}", {-2: 1.0, 0: 2.0, 2: 3.0}, (-8, 0)),
    ],
)
def test_next_stays_where_values_are_plausible(
    tmp_path: Path, parameter: str, losses: dict[Any, float], within: tuple[float, float]
) -> None:
    text = "program: x.py\nmethod: random\nrun_cap: 20\nmetric: {name: loss}\nparameters:\n"
    (tmp_path / "sweep.yaml").write_text(f"{text}  val_split: {parameter}\n")
    for copy in range(3):
        for number, (value, loss) in enumerate(losses.items()):
            noise = 0.001 * ((number * 7 + copy * 3) % 5)
            folder = tmp_path / f"run-{copy}{number:02}"
            write_foreign_run(folder, {"val_split": value}, [{"loss": loss + noise}])
    entry = yaml.safe_load(next_sweep(read_results([tmp_path])))["parameters"]["val_split"]
    numbers = entry.get("values") or [entry["min"], entry["max"]]
    assert within[0] <= min(numbers)
    assert max(numbers) <= within[1]
    assert {type(number) for number in numbers} == {type(number) for number in losses}


def test_odd_configs_do_no_harm(tmp_path: Path, run: Run) -> None:
    odd = [
        ".inf",
        "1" + 400 * "0",
        "2026-11-30",
        "[1, [2.5, {}]]",
        "null",
        "'a\\x1b[31mb'",
        "true",
        "0",
    ]
    text = FOREIGN.replace("data: {values: [small, large]}", "data: {values: [small, 1, null]}")
    folder = sweep_of(tmp_path / "s", text=text)
    for number, value in enumerate(odd, 1):
        lines = f"optimizer.lr: {value}\ndata: {value}\nrandom_seed: 1\nother: {value}\n"
        (folder / f"run-{number:04}/config.yaml").write_text(lines)
    for command in ("explain", "report", "compare", "next"):
        done = run(command, folder, *(["--json"] if command == "compare" else []))
        assert done.returncode in (0, 2), done.stderr
        assert "Traceback" not in done.stderr


def test_commands(tmp_path: Path, run: Run) -> None:
    folder = str(sweep_of(tmp_path / "s"))
    said = run("explain", folder).stdout
    assert "best eval/acc" in said
    assert json.loads(run("explain", folder, "--json").stdout)[0]["rule"] == "winner"
    assert run("report", folder).stdout.endswith("report.html: 12 runs\n")
    both = write_run(tmp_path / "ours", {"learning_rate": 0.1}, [2.0])
    compared = run("compare", f"{folder}/run-0001", str(both), "--json").stdout
    assert set(json.loads(compared)["status"].values()) == {"done"}
