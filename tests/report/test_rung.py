"""Sweeps that hyperband thinned, or that go on: what can be said is said, and of which runs."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path

import pytest
from conftest import Run
from results_on_disk import write_run, write_sweep

from fundamentallm.report.explain import explain
from fundamentallm.report.next_sweep import next_sweep
from fundamentallm.report.page import make_page
from fundamentallm.report.read_runs import ReportError, read_results
from fundamentallm.report.rules.claim import Claim, Evidence
from fundamentallm.report.rung import Rung
from fundamentallm.sweep.check.warnings import size
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.records import status_counts

SWEEP = """\
program: train.py
method: random
run_cap: 14
metric: {name: val_loss, goal: minimize}
early_terminate: {type: hyperband, min_iter: 3, eta: 3}
parameters:
  learning_rate: {distribution: log_uniform_values, min: 0.0001, max: 0.01}
  dropout: {min: 0.0, max: 0.3}
"""
LENGTHS = [27, 9, 3, 3, 3, 27, 9, 3, 3, 9, 3, 3, 3, 3]


def thinned(folder: Path, lengths: list[int], text: str = SWEEP) -> Path:
    """Runs of so many evaluations; those that have not 27 were stopped. The best rate is 0.0016."""
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(text)
    dice = random.Random(1)
    for number, length in enumerate(lengths, 1):
        u = dice.random()
        end = 1.5 + 1.5 * (u - 0.6) ** 2 + dice.gauss(0, 0.01)
        settings = {"learning_rate": 1e-4 * 100**u, "dropout": dice.uniform(0, 0.3), "seed": 0}
        val = [end + 2 * math.exp(-k / 3) for k in range(1, 28)][:length]
        run = write_run(folder / f"run-{number:04}", settings, val)
        if length < 27:
            summary = json.loads((run / "summary.json").read_text())
            summary |= {"status": "interrupted", "stopped_by": "hyperband"}
            (run / "summary.json").write_text(json.dumps(summary))
    return folder


def said(folder: Path) -> dict[str, Claim]:
    return {claim.rule: claim for claim in reversed(explain(read_results([folder])))}


def test_settings_are_compared_at_the_last_rung_that_enough_runs_reached(tmp_path: Path) -> None:
    folder = thinned(tmp_path / "s", LENGTHS)
    found = said(folder)
    assert found["matters"].about == "learning_rate"
    assert "moves val_loss after 3 evaluations by" in found["matters"].says
    assert found["stopped"].says.startswith(
        "12 of 14 runs were stopped early; settings are compared after 3 evaluations, which 14 runs"
    )
    assert "in_progress" not in found
    following = parse_sweep(next_sweep(read_results([folder])), "next.yaml")
    rates = next(p.distribution for p in following.parameters if p.name == "learning_rate")
    assert rates.quantile(0.0) < 0.0016 < rates.quantile(1.0)
    assert rates.quantile(1.0) / rates.quantile(0.0) < 20  # of 100
    page = make_page(read_results([folder]))
    assert "14 runs: 2 done, 12 stopped early" in page
    assert '"val_loss after 3 evaluations"' in page


def test_the_rung_is_the_last_that_enough_runs_reached(tmp_path: Path) -> None:
    cases = {
        "two of three": ([27, 27, *[9] * 6, *[3] * 6], Rung(9, 8)),
        "few at all": ([27, 27, *[9] * 2, *[3] * 2], Rung(3, 6)),
        "enough at the end": ([*[27] * 8, *[3] * 9], None),
        "none stopped": ([27] * 6, None),
        "too few": ([27, 27, 3, 3], None),
        "all stopped": ([*[9] * 3, *[3] * 9], Rung(3, 12)),
    }
    for name, (lengths, rung) in cases.items():
        results = read_results([thinned(tmp_path / name, lengths)])
        assert Evidence(results).rung == rung, name
    (tmp_path / "two of three/sweep.yaml").unlink()  # then the lengths of the stopped runs tell
    assert Evidence(read_results([tmp_path / "two of three"])).rung == Rung(9, 8)
    with pytest.raises(ReportError, match=r"too few to learn from; 5 .*2 done, 2 stopped early"):
        next_sweep(read_results([tmp_path / "too few"]))


def test_a_run_that_was_better_when_it_was_stopped_is_named(tmp_path: Path) -> None:
    for number, (loss, status) in enumerate(((1.5, "done"), (1.6, "done"), (1.4, "stopped"))):
        settings = {"learning_rate": 0.001 * (1 + number), "seed": 0}
        write_run(tmp_path / f"run-{number}", settings, [3.0, loss], status=status)
    says = said(tmp_path)["winner"].says
    assert says.startswith("best val_loss: 1.5")
    assert "(run-2, stopped early, had 1.4000 by then)" in says


def test_an_unfinished_sweep_is_in_progress(tmp_path: Path, run: Run) -> None:
    folder = thinned(tmp_path / "s", [27] * 9)
    (folder / "run-0009/summary.json").write_text('{"status": "running"}')
    first = explain(read_results([folder]))[0]
    assert first.rule == "in_progress"
    assert first.says.startswith(
        "8 of 14 runs, 0 running: 8 done, 1 unfinished (in progress, or killed)"
    )
    assert "# " in next_sweep(read_results([folder]))
    assert "8 of 14 runs, 0 running" in " ".join(
        next_sweep(read_results([folder])).replace("#", "").split()
    )
    assert run("explain", folder).stdout.startswith("Not finished\n  8 of 14 runs, 0 running")
    assert "Not finished" in make_page(read_results([folder]))


def test_a_finished_sweep_is_not_in_progress(tmp_path: Path) -> None:
    """All were made; or a target was reached; or no end is known; or the others cannot exist."""
    target = SWEEP.replace("goal: minimize", "goal: minimize, target: 3.0")
    few = "program: train.py\nmethod: random\nrun_cap: 9\nmetric: {name: val_loss}\nparameters:\n"
    few += "  learning_rate: {values: [0.0001, 0.001, 0.01]}\n"
    grid = few.replace("random\nrun_cap: 9", "grid") + "  num_heads: {values: [8, 7]}\n"
    assert "in_progress" not in said(thinned(tmp_path / "all", [27] * 14))
    assert "in_progress" not in said(thinned(tmp_path / "target", [27] * 9, target))
    endless = SWEEP.replace("run_cap: 14\n", "")
    assert "in_progress" not in said(thinned(tmp_path / "endless", [27] * 9, endless))
    scores = {0.0001: [2.0], 0.001: [1.5], 0.01: [1.8]}
    for text in (few, grid):
        assert "in_progress" not in said(write_sweep(tmp_path / text[24:30], scores, text))
    unbegun = {0.0001: [2.0], 0.001: [1.5]}
    assert (
        "2 of 3 runs, 0 running"
        in said(write_sweep(tmp_path / "2", unbegun, grid))["in_progress"].says
    )


def test_another_programs_sweep_may_have_any_values() -> None:
    text = "program: other.py\nmethod: random\nrun_cap: 9\nmetric: {name: x}\nparameters:\n"
    points = SearchSpace(parse_sweep(text + "  units: {values: [1, 2, 3]}\n", "s"), {})
    assert size(points)[0] == 3
    assert points.is_possible({"units": 1})


def test_counts_of_statuses_in_words() -> None:
    statuses = ["unfinished", "diverged", *["stopped"] * 12, "done", "done", "hung", "failed"]
    assert status_counts(Counter(statuses)) == (
        "2 done, 12 stopped early, 1 diverged, 2 failed, 1 unfinished (in progress, or killed)"
    )
    assert status_counts({}) == ""
