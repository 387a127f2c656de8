"""Every claim about a sweep is true, and no claim is made without evidence."""

from __future__ import annotations

import json
import math
import re
import shutil
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT, Run
from results_on_disk import SWEEP, SimulatedSweep, write_run, write_sweep

from fundamentallm.report.explain import explain
from fundamentallm.report.figures import best_so_far
from fundamentallm.report.next_sweep import next_sweep
from fundamentallm.report.read_runs import ReportError, read_results
from fundamentallm.report.rules.budget import _expected_best
from fundamentallm.report.rules.claim import Claim, Evidence
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.space import SearchSpace, check_space

RISING = [4.0, 3.0, 2.0, 1.8, 1.7, 1.6, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5]
OVERFIT = [3.0, 2.0, 1.6, 1.5, *[1.55 + 0.02 * i for i in range(8)]]
FLAT = [4.0, 2.0, 1.6, *[1.5] * 9]


def said(folder: Path) -> dict[str, Claim]:
    return {claim.rule: claim for claim in reversed(explain(read_results([folder])))}


def several(folder: Path, val: list[float], **more: object) -> Path:
    for number in range(4):
        settings = {"seed": number, "warmup_steps": 0, "lr_schedule": "constant"}
        write_run(folder / f"run-{number}", settings, val, **more)  # pyright: ignore
    return folder


def test_winner_is_held_against_the_noise_between_seeds(tmp_path: Path) -> None:
    clear = said(write_sweep(tmp_path / "a", {0.0001: [2.0, 2.02], 0.001: [1.5, 1.52]}))
    assert clear["winner"].verdict == "clear"
    assert "p = " in clear["winner"].says
    assert "1.5100" in clear["winner"].says
    tied = said(write_sweep(tmp_path / "b", {0.0001: [1.5, 1.6], 0.001: [1.52, 1.59]}))
    assert tied["winner"].verdict == "tied"
    alone = said(write_sweep(tmp_path / "c", {0.0001: [2.0], 0.001: [1.5]}))
    assert alone["winner"].verdict == "unknown"
    assert "this may be chance" in alone["winner"].says


def test_what_matters_and_the_edge(tmp_path: Path) -> None:
    scores = {0.0001: [2.0, 2.01], 0.001: [1.7, 1.71], 0.01: [1.5, 1.51]}
    found = said(write_sweep(tmp_path / "a", scores))
    assert (found["matters"].verdict, found["matters"].about) == ("matters", "learning_rate")
    assert (found["edge"].verdict, found["edge"].about) == ("high", "learning_rate")
    inside = {0.0001: [2.0, 2.01], 0.001: [1.5, 1.51], 0.01: [1.7, 1.71]}
    found = said(write_sweep(tmp_path / "b", inside))
    assert found["matters"].verdict == "matters"
    assert "edge" not in found
    nothing = {0.0001: [1.5, 1.6], 0.001: [1.59, 1.51], 0.01: [1.52, 1.6]}
    assert said(write_sweep(tmp_path / "c", nothing))["matters"].verdict == "undecided"


def test_no_edge_where_runs_diverged_beyond(tmp_path: Path) -> None:
    scores = {0.0001: [2.0, 2.01], 0.001: [1.7, 1.71], 0.01: [1.5, 1.51]}
    folder = write_sweep(tmp_path / "a", scores)
    settings = {"learning_rate": 0.1, "seed": 0}
    write_run(folder / "run-0009", settings, [4.0], status="diverged")
    assert "edge" not in said(folder)


def test_an_edge_at_the_end_of_the_possible_range(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(
        "program: train.py\nmethod: grid\nparameters:\n  dropout: {values: [0.0, 0.1, 0.2]}\n"
        "  seed: {values: [0, 1]}\n"
    )
    for number, (dropout, loss) in enumerate([(0.0, 1.5), (0.1, 1.7), (0.2, 2.0)] * 2):
        settings = {"dropout": dropout, "seed": number // 3}
        write_run(tmp_path / f"run-{number}", settings, [3.0, loss + number / 1000])
    assert "no value below the range is possible" in said(tmp_path)["edge"].says
    following = next_sweep(read_results([tmp_path]))
    assert "values: [0.0, 0.05]  # closer to 0, the best of 3" in following


def test_next_of_lists_of_one_and_of_steps(tmp_path: Path) -> None:
    text = (
        "program: train.py\nmethod: random\nrun_cap: 12\nmetric: {name: val_loss}\nparameters:\n"
        "  model_dim: {distribution: q_uniform, min: 8, max: 1024, q: 8}\n  epochs: {values: [5]}\n"
    )
    (tmp_path / "sweep.yaml").write_text(text)
    for number, width in enumerate([8, 16, 32, 64, 128, 256, 384, 512, 640, 768, 896, 1024]):
        loss = 2 + 0.1 * abs(math.log(width / 256))
        falling = [loss + 0.3 - 0.03 * i for i in range(11)]
        write_run(tmp_path / f"run-{number}", {"model_dim": width, "epochs": 5}, falling)
    following = next_sweep(read_results([tmp_path]))
    assert "value: 10  # was 5" in following
    sweep = parse_sweep(following, "next.yaml")
    points = SearchSpace(sweep, {})
    assert not check_space(sweep, {}).errors, following
    assert "q_log_uniform_values" in following
    widths = next(p for p in points.searched if p.name == "model_dim").distribution
    assert {widths.quantile(u / 50 + 0.01) % 8 for u in range(50)} == {0}


@pytest.mark.parametrize(
    ("rule", "val", "train"),
    [
        ("still_falling", [4 - 0.2 * i for i in range(12)], None),
        ("best_early", [1.5, *[1.6 + 0.02 * i for i in range(11)]], None),
        ("overfitting", OVERFIT, [3 - 0.2 * i for i in range(12)]),
        ("underfitting", FLAT, FLAT),
    ],
)  # fmt: skip
def test_rules_of_length(
    rule: str, val: list[float], train: list[float] | None, tmp_path: Path
) -> None:
    assert rule in said(several(tmp_path / "yes", val, train=train))
    settings = {"lr_schedule": "constant"}
    one = said(write_run(tmp_path / "one", settings, val, train=train))
    assert "the run" in one[rule].says
    healthy = said(several(tmp_path / "no", FLAT))
    assert not {"still_falling", "best_early", "overfitting", "underfitting"} & set(healthy)


def test_runs_with_a_decaying_rate_are_not_called_too_short(tmp_path: Path) -> None:
    falling = [4 - 0.2 * i for i in range(12)]
    for number in range(4):
        settings = {"seed": number, "lr_schedule": "cosine"}
        write_run(tmp_path / f"s/run-{number}", settings, falling)
    assert "still_falling" not in said(tmp_path / "s")


def test_clipping_and_instability(tmp_path: Path) -> None:
    clipped = said(several(tmp_path / "a", FLAT, norm=3.0))
    assert clipped["clipping"].says.startswith("in 4 of 4 runs")
    assert "clipping" not in said(several(tmp_path / "b", FLAT, norm=0.9))
    val = [4 - 0.05 * i for i in range(30)]
    jumping = [*val[:2], 6.0, 5.0, *val[4:]]
    assert "instability" in said(several(tmp_path / "c", val, train=jumping))
    assert "instability" not in said(several(tmp_path / "d", val, train=val))


def test_divergence_names_a_setting_only_if_it_explains(tmp_path: Path) -> None:
    for number in range(12):
        settings = {"learning_rate": 0.001 * (number + 1), "dropout": 0.1 * (number % 3)}
        status = "diverged" if number >= 9 else "done"
        write_run(tmp_path / f"a/run-{number:02}", settings, FLAT, status=status)
        status = "diverged" if number in (1, 6, 10) else "done"
        write_run(tmp_path / f"b/run-{number:02}", settings, FLAT, status=status)
    found = said(tmp_path / "a")["divergence"]
    assert (found.verdict, found.about) == ("high", "learning_rate")
    assert "0.01 or more 3 of 3 did, elsewhere 0 of 9" in found.says
    assert said(tmp_path / "b")["divergence"].verdict == "scattered"


def test_caveats(tmp_path: Path) -> None:
    for number, width in enumerate((64, 128, 256)):
        settings = {"model_dim": width, "learning_rate": 0.001, "seed": 0, "dropout": 0.1}
        write_run(tmp_path / f"a/run-{number}", settings, FLAT)
    found = said(tmp_path / "a")
    assert "model_dim was compared at learning_rate 0.001 only" in found["unfair_rate"].says
    assert "dropout 0.1" in found["held_fixed"].says
    tuned = said(write_sweep(tmp_path / "b", {0.0001: [2.0], 0.001: [1.5]}))
    assert "unfair_rate" not in tuned


def test_more_runs(tmp_path: Path) -> None:
    verdicts: dict[str, set[str]] = {"waste": set(), "unclear": set()}
    for number in range(2000, 2030):
        case = SimulatedSweep(number)
        if case.truth.more_runs == "waste":
            claims = explain(read_results([case.write(tmp_path / str(number))]))
            verdicts["waste"] |= {c.verdict for c in claims if c.rule == "more_runs"}
            assert not any(" 0.0 times" in c.says or " 0.0000" in c.says for c in claims)
    assert verdicts["waste"] == {"waste"}


def test_known_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/dev/explain.md has the measured table; at most 5% of claims on nulls are false."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import explain_quality

    everything, nulls, _ = explain_quality.judge(explain_quality.CASES)
    page = (ROOT / "docs/dev/explain.md").read_text("utf-8")
    assert sum(count.total() for count in nulls.values()) > 0
    for rule, counts in everything.items():
        judged = sum(counts[verdict] for verdict in ("right", "wrong", "silent"))
        least = 0.45 if rule == "more_runs" else 0.88  # which is often silent, and never wrong
        assert counts["right"] >= least * judged, rule
        assert counts["wrong"] == 0, rule
        assert nulls[rule]["false"] <= 0.05 * nulls[rule].total(), rule
        false = f"{nulls[rule]['false']}/{nulls[rule].total()}"
        assert explain_quality.row(f"`{rule}`", counts, false) in page


def test_the_command(run: Run, tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", {0.0001: [2.0, 2.01], 0.001: [1.5, 1.51]})
    done = run("explain", folder)
    assert (done.returncode, "The best" in done.stdout) == (0, True)
    done = run("explain", folder, "--json")
    assert {"rule", "verdict", "says", "about"} == set(json.loads(done.stdout)[0])
    (tmp_path / "empty").mkdir()
    done = run("explain", tmp_path / "empty")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no run found" in done.stderr


def test_a_run_that_occurs_twice_is_no_measure_of_chance(tmp_path: Path) -> None:
    write_sweep(tmp_path, {0.001: [1.5], 0.01: [1.6]})
    for number in (7, 8):
        write_run(tmp_path / f"run-000{number}", {"learning_rate": 0.001, "seed": 0}, [1.5])
    results = read_results([tmp_path])
    assert results.noise is None
    assert [len(runs) for runs in results.configurations] == [1, 1]
    assert said(tmp_path)["winner"].verdict == "unknown"


def test_copies_and_repeats_change_nothing_but_their_own_caveat(tmp_path: Path) -> None:
    """Same settings, seed and text: one observation, whatever it is looked at by."""
    for number, known in ((2, 1), (2002, 0), (7, 0)):  # with seeds and without, a grid
        place = tmp_path / str(number)
        folder = SimulatedSweep(number).write(place / "sweep")
        if not known:  # as of another program: a run's copy is known by its values
            for file in folder.glob("run-*/config.yaml"):
                settings = yaml.safe_load(file.read_text())
                settings.pop("seed", None)
                file.write_text(yaml.safe_dump(settings))
        before = explain(read_results([place]))
        assert all(claim.rule != "repeated" for claim in before)
        for file in folder.glob("run-*/config.yaml"):  # the same text, from another place
            settings = {"data_sha256": "abc", "data": "a.txt"}
            file.write_text(file.read_text() + yaml.safe_dump(settings))
        shutil.copytree(folder, place / "copy")
        for file in (place / "copy").glob("run-*/config.yaml"):
            file.write_text(file.read_text().replace("a.txt", "b.txt"))
        (place / "sweep").rename(place / "a")
        after = explain(read_results([place / "a", place / "copy"]))
        told = [claim.says for claim in after if claim.rule == "repeated"]
        runs = len(list((place / "a").glob("run-*")))
        assert told == [
            f"{runs} of {2 * runs} runs repeat others with the same settings, seed and text; "
            f"each counts once, so these results rest on {runs} runs"
        ]

        def plain(claims: list[Claim]) -> list[tuple[str, str]]:
            return [
                (c.verdict, re.sub(r"(a/|copy/)?run-\d+", "", c.says))
                for c in claims
                if c.rule not in ("repeated", "held_fixed")
            ]

        assert plain(after) == plain(before)


def test_of_repeated_runs_the_farthest_counts(tmp_path: Path) -> None:
    settings = {"learning_rate": 0.001, "seed": 0}
    write_run(tmp_path / "a", settings, [2.0, 1.8], status="interrupted")
    write_run(tmp_path / "b", settings, [2.0, 1.8, 1.5])
    write_run(tmp_path / "c", {**settings, "seed": 1}, [2.0, 1.8, 1.6])
    write_run(tmp_path / "d", {**settings, "data": "other.txt"}, [2.0, 1.8, 1.4])
    assert [run.name for run in read_results([tmp_path]).observations] == ["b", "c", "d"]


def test_settings_without_effect_are_no_replicates(tmp_path: Path) -> None:
    """A setting that a run takes no notice of, or a seed: its runs are the same at every step."""
    for ignored, verdict in (("seed", "unknown"), ("min_lr_ratio", "tied")):
        for number, (rate, value) in enumerate(product((0.001, 0.002, 0.004), range(4))):
            loss = 1.5 + (rate == 0.002) * 0.05 + (rate == 0.004) * 0.4
            settings = {"learning_rate": rate, "seed": 0, ignored: value}
            write_run(tmp_path / ignored / f"run-{number:02}", settings, [4.0, 2 * loss, loss])
        claims = explain(read_results([tmp_path / ignored]))
        assert {claim.verdict for claim in claims if claim.rule == "matters"} <= {"undecided"}
        assert not any(re.search(r"p [<=]|\d{4} times|clear", claim.says) for claim in claims)
        assert {claim.verdict for claim in claims if claim.rule == "winner"} == {verdict}


@pytest.mark.parametrize("name", ["perf/tokens_per_second", "val_loss"])
def test_a_named_metric_keeps_its_goal(name: str, tmp_path: Path) -> None:
    sweep = SWEEP.replace("{name: val_loss, goal: minimize}", f"{{name: {name}, goal: maximize}}")
    (tmp_path / "sweep.yaml").write_text(sweep)
    for number, speed in enumerate([100.0, 900.0], 1):
        folder = write_run(tmp_path / f"run-000{number}", {"seed": number}, [speed])
        row = {"step": 10, "val_loss": speed, "perf/tokens_per_second": speed}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    own, named = read_results([tmp_path]), read_results([tmp_path], name)
    assert own.best is not None
    assert named.best is not None
    assert own.best.name == named.best.name == "run-0002"
    (tmp_path / "sweep.yaml").unlink()
    alone = read_results([tmp_path], "perf/tokens_per_second")
    assert alone.best is not None
    assert alone.best.name == "run-0002"


def test_a_perfect_fit_is_not_refined_into_rounding(tmp_path: Path) -> None:
    heads, rates = [2, 4, 8, 12], [0.0005, 0.001, 0.002, 0.004]
    (tmp_path / "sweep.yaml").write_text(
        "program: train.py\nmethod: grid\nmetric: {name: val_loss}\nparameters:\n"
        f"  num_heads: {{values: {heads}}}\n  learning_rate: {{values: {rates}}}\n"
    )
    for number, (head, rate) in enumerate(product(heads, rates), 1):
        loss = 1.5 + 0.01 * (12 - head) + 0.1 * abs(math.log2(rate / 0.001))
        write_run(tmp_path / f"run-{number:04}", {"num_heads": head, "learning_rate": rate}, [loss])
    surface = Evidence(read_results([tmp_path])).surface
    assert surface is not None
    best = {effect.factor.name: effect.best for effect in surface.effects}
    assert best["num_heads"] == 12
    assert best["learning_rate"] in (0.001, 0.0005)  # a polynomial has no corner


def test_the_expected_best_is_exact() -> None:
    losses = np.array([3.0, 1.0, 2.0, 5.0, 4.0])
    for count in range(1, 6):
        every = [min(each) for each in combinations(losses, count)]
        assert _expected_best(losses, count) == pytest.approx(sum(every) / len(every))


def test_runs_are_in_the_order_of_their_numbers_and_0_is_a_score(tmp_path: Path) -> None:
    for number, loss in ((9999, 1.0), (10000, 0.0), (2, 3.0)):
        write_run(tmp_path / f"run-{number:04}", {"seed": number}, [loss])
    results = read_results([tmp_path])
    assert [run.name for run in results.runs] == ["run-0002", "run-9999", "run-10000"]
    plot = best_so_far(results)
    assert plot is not None
    assert list(plot.figure.data[-1].y) == [3.0, 1.0, 0.0]


def test_losses_of_other_texts_are_not_compared(tmp_path: Path) -> None:
    for number, (share, loss) in enumerate([(0.1, 1.5), (0.3, 1.9)] * 4):
        settings = {"val_split": share, "seed": number, "dropout": number / 10}
        write_run(tmp_path / f"run-{number}", settings, [4.0, loss, loss - number / 1000])
    found = said(tmp_path)
    assert "runs differ in val_split" in found["other_losses"].says
    assert "matters" not in found


def test_explain_ignores_range_tests(tmp_path: Path) -> None:
    summary = {"range_test": {"low": 1e-4, "high": 1e-2, "fell": True}}
    write_run(tmp_path / "run", {"learning_rate": 0.001, "gradient_clip": 0.1}, FLAT)
    file = tmp_path / "run/summary.json"
    assert explain(read_results([tmp_path / "run"])) != []
    file.write_text(json.dumps(json.loads(file.read_text()) | summary))
    assert explain(read_results([tmp_path / "run"])) == []


def test_a_choice_with_which_runs_diverge_is_named(tmp_path: Path) -> None:
    for number in range(16):
        bad = number % 2 == 0
        settings = {"mixed_precision": bad, "learning_rate": 0.001 * (1 + number), "seed": 0}
        status = "diverged" if bad else "done"
        write_run(tmp_path / f"run-{number:02}", settings, [4.0, 2.0, 1.5], status=status)
    found = said(tmp_path)["divergence"]
    assert found.verdict == "choice"
    assert "with mixed_precision True 8 of 8 did, elsewhere 0 of 8" in found.says


@pytest.mark.parametrize(
    ("train", "verdict", "words"),
    [
        ([2.0, 1.4, *[1.4 + 0.05 * i for i in range(1, 21)]], "too_high", "try a lower one"),
        ([2.0, 1.4, *[1.4 - 0.02 * i for i in range(1, 21)]], "early", "memorized"),
    ],
)
def test_a_best_step_early_on_is_explained(
    train: list[float], verdict: str, words: str, tmp_path: Path
) -> None:
    val = [2.0, 1.5, *[1.5 + 0.04 * i for i in range(1, 21)]]
    found = said(several(tmp_path, val, train=train))["best_early"]
    assert found.verdict == verdict
    assert words in found.says


def test_without_an_effect_there_is_no_next_sweep(tmp_path: Path) -> None:
    nothing = {0.0001: [1.5, 1.6], 0.001: [1.59, 1.51], 0.01: [1.52, 1.6]}
    with pytest.raises(ReportError, match="nothing stood out in 6 runs"):
        next_sweep(read_results([write_sweep(tmp_path / "a", nothing)]))
    same = {rate: [1.5, 1.5] for rate in nothing}
    with pytest.raises(ReportError, match="so there is nothing to learn"):
        next_sweep(read_results([write_sweep(tmp_path / "b", same)]))


def test_what_diverged_with_a_seed_is_not_called_best(tmp_path: Path) -> None:
    write_sweep(tmp_path, {0.001: [1.2, 1.21], 0.0001: [1.5, 1.51, 1.52]})
    write_run(tmp_path / "run-0009", {"learning_rate": 0.001, "seed": 2}, [], status="diverged")
    results = read_results([tmp_path])
    assert [runs[0].settings["learning_rate"] for runs in results.configurations] == [0.001, 0.0001]
    assert [runs[0].settings["learning_rate"] for runs in results.contenders] == [0.0001]
    says = said(tmp_path)["winner"].says
    assert says.startswith("best val_loss: 1.5100 (mean of 3 seeds: learning_rate 0.0001)")
    assert "(left out: 1 with a better mean that diverged with a seed)" in says


def test_range_tests_are_no_evidence(tmp_path: Path) -> None:
    several(tmp_path, FLAT, train=FLAT)
    before = said(tmp_path)
    for number in range(5):
        folder = write_run(tmp_path / f"find-{number}", {"seed": number}, [], norm=9.0)
        summary = json.loads((folder / "summary.json").read_text())
        test = {"low": 0.001, "high": 0.01, "fell": True}
        (folder / "summary.json").write_text(json.dumps({**summary, "range_test": test}))
        (folder / "metrics.jsonl").write_text('{"step": 9, "train_loss": 0.1}\n')
    assert said(tmp_path) == before
    assert not any(
        run.name.startswith("find") for run in read_results([tmp_path], "train_loss").ranked
    )


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
    noise = results.noise
    assert noise is not None
    assert noise.sigma < 0.02
    found = said(tmp_path)
    assert found["winner"].says.startswith("best val_loss: 1.5050 (mean of 2 seeds")
    assert found["stopped"].says.startswith("1 of 5 runs were stopped early")


def test_the_best_value_comes_from_the_runs_and_next_searches_there(tmp_path: Path) -> None:
    """The fit's best value lies beyond a run that lost, so it is not named."""
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


def test_a_perfect_split_of_few_runs_may_be_chance(tmp_path: Path) -> None:
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


def test_a_run_without_settings_changes_nothing(tmp_path: Path) -> None:
    scores = {r: [abs(r - 0.004) * 100 + 1.5] for r in (0.001, 0.002, 0.003, 0.004, 0.005, 0.006)}
    write_sweep(tmp_path, {**scores, 0.007: [1.8], 0.008: [1.9], 0.009: [2.0], 0.01: [2.1]})
    before = said(tmp_path)["matters"].says
    write_run(tmp_path / "run-0099", {}, [1.7])
    (tmp_path / "run-0099/config.yaml").write_text("a: [")
    assert said(tmp_path)["matters"].says == before


def test_the_limit_that_ended_runs_is_a_caveat(tmp_path: Path) -> None:
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
