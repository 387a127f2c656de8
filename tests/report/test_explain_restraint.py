"""What explain cannot know it does not say; and next makes no sweep of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from conftest import Run
from results_on_disk import SWEEP, write_run, write_sweep

from fundamentallm.report.explain import explain
from fundamentallm.report.next_sweep import next_sweep
from fundamentallm.report.read_runs import read_results
from fundamentallm.report.rules.claim import Claim
from fundamentallm.report.significance import measure_noise


def said(folder: Path) -> dict[str, Claim]:
    return {claim.rule: claim for claim in reversed(explain(read_results([folder])))}


def test_settings_that_changed_together_are_not_told_apart(tmp_path: Path) -> None:
    """Four finalists of a search, with three seeds each: any of their settings may be why."""
    configs = [(0.001, 0.1, 2), (0.002, 0.0, 6), (0.004, 0.3, 4), (0.003, 0.2, 8)]
    for n, (rate, dropout, layers) in enumerate(configs):
        for seed in range(3):
            settings = {
                "learning_rate": rate,
                "dropout": dropout,
                "num_layers": layers,
                "seed": seed,
            }
            loss = 1.5 + 0.03 * n + 0.002 * seed
            write_run(tmp_path / f"run-{n}{seed}", settings, [3.0, loss])
    claims = [claim for claim in explain(read_results([tmp_path])) if claim.rule == "matters"]
    assert {claim.verdict for claim in claims} <= {"together", "undecided"}
    assert any(
        "they changed together, so their effects cannot be told apart" in c.says for c in claims
    )


def test_runs_that_were_stopped_early_are_not_compared(tmp_path: Path) -> None:
    for seed, loss in enumerate([1.50, 1.51]):
        write_run(tmp_path / f"a{seed}", {"learning_rate": 0.001, "seed": seed}, [loss])
        write_run(tmp_path / f"b{seed}", {"learning_rate": 0.002, "seed": seed}, [loss + 0.1])
    write_run(tmp_path / "a2", {"learning_rate": 0.001, "seed": 2}, [2.3], status="stopped")
    results = read_results([tmp_path])
    noise = measure_noise(results)
    assert noise is not None
    assert noise.sigma < 0.02
    found = said(tmp_path)
    assert found["winner"].says.startswith("best val_loss: 1.5050 (mean of 2 seeds")
    assert found["stopped"].says.startswith("1 of 5 runs were stopped early")


def test_the_best_is_told_by_the_runs_and_next_looks_there(tmp_path: Path) -> None:
    """What the fit takes for the best lies beyond a run that lost: it is not named."""
    low, high = 0.0001, 0.1
    text = SWEEP.replace("grid", "random").replace(
        "{values: [0.0001, 0.001, 0.01]}",
        f"{{distribution: log_uniform_values, min: {low}, max: {high}}}",
    )
    losses = {
        0.00011: 2.31, 0.00023: 2.12, 0.00058: 1.93, 0.0011: 1.81, 0.00285: 1.502, 0.00289: 1.50,
        0.00343: 1.51, 0.0037: 1.66, 0.0094: 1.9, 0.021: 2.1, 0.051: 2.2, 0.093: 2.4,
    }  # fmt: skip
    write_sweep(tmp_path, {rate: [loss] for rate, loss in losses.items()}, text)
    says = said(tmp_path)["matters"].says
    assert re.search(r"3 runs within [\d.]+ of the best have 0.00285 to 0.00343", says)
    fitted = re.search(r"fitted optimum ([\d.]+)", says)
    assert fitted is None or 0.00285 <= float(fitted[1]) <= 0.00343
    following = next_sweep(read_results([tmp_path]))
    closer = re.search(r"closer to ([\d.]+)", following)
    assert closer is not None
    assert 0.00285 <= float(closer[1]) <= 0.00343


def test_a_noisy_corner_hides_no_winner(tmp_path: Path) -> None:
    scores = {0.0005: [1.6, 1.605, 1.61], 0.001: [1.5, 1.505, 1.51], 0.002: [1.54, 1.545, 1.55]}
    write_sweep(tmp_path, {**scores, 0.01: [2.0, 2.5, 2.2]})
    assert said(tmp_path)["winner"].verdict == "clear"


def test_a_perfect_split_that_chance_might_make_is_told(tmp_path: Path) -> None:
    for n, rate in enumerate([0.0001, 0.0003, 0.001, 0.003, 0.01]):
        for seed in range(2):
            status = "diverged" if rate == 0.01 else "done"
            settings = {"learning_rate": rate, "seed": seed}
            write_run(tmp_path / f"run-{n}{seed}", settings, [2.0 - 0.1 * n], status=status)
    found = said(tmp_path)["divergence"]
    assert "at learning_rate 0.01 or more 2 of 2 did, elsewhere 0 of 8" in found.says
    assert found.says.endswith("with so few, this may be chance")


def test_no_edge_where_a_run_diverged(tmp_path: Path) -> None:
    write_sweep(tmp_path, {0.0001: [2.0, 2.01], 0.001: [1.7, 1.71], 0.01: [1.5, 1.51]})
    assert "edge" in said(tmp_path)
    write_run(tmp_path / "run-0009", {"learning_rate": 0.01, "seed": 2}, [], status="diverged")
    assert "edge" not in said(tmp_path)


def test_one_run_without_settings_takes_nothing_away(tmp_path: Path) -> None:
    scores = {r: [abs(r - 0.004) * 100 + 1.5] for r in (0.001, 0.002, 0.003, 0.004, 0.005, 0.006)}
    write_sweep(tmp_path, {**scores, 0.007: [1.8], 0.008: [1.9], 0.009: [2.0], 0.01: [2.1]})
    before = said(tmp_path)["matters"].says
    write_run(tmp_path / "run-0099", {}, [1.7])
    (tmp_path / "run-0099/config.yaml").write_text("a: [")
    assert said(tmp_path)["matters"].says == before


def test_what_ends_a_run_is_a_caveat(tmp_path: Path) -> None:
    write_sweep(tmp_path, {0.001: [1.5], 0.01: [1.6]})
    for folder in tmp_path.glob("run-*"):
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        settings |= {"epochs": 1_000_000, "max_steps": 300}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps({**summary, "stopped_by": "max_steps"}))
    says = said(tmp_path)["held_fixed"].says
    assert "max_steps 300" in says
    assert "epochs" not in says


def test_next_refuses_what_is_no_search(run: Run, tmp_path: Path) -> None:
    head = "# The best of lr again. Only 6 points of this grid are run.\n"
    scores = {0.0001: [2.0, 2.01], 0.001: [1.5, 1.51], 0.01: [1.7, 1.71]}
    write_sweep(tmp_path / "s", scores, head + SWEEP)
    done = run("next", "s")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "this sweep only repeats the best of another one" in done.stderr


def test_next_goes_past_the_documented_range_in_small_steps(tmp_path: Path) -> None:
    write_sweep(tmp_path, {0.0001: [2.0, 2.01], 0.001: [1.7, 1.71], 0.01: [1.5, 1.51]})
    text = next_sweep(read_results([tmp_path]))
    assert "values: [0.01, 0.032, 0.1]" in text
