"""Coarse to fine: the right configurations, checkpoints only where they may go on, honest words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import Run
from tiny_sweep import FLAGS, metric_rows, summaries

from fundamentallm.cli.commands.refine import _labels
from fundamentallm.report.standings import Standing, sort_standings, verdict
from fundamentallm.status import RunStatus
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import Metric, parse_sweep
from fundamentallm.sweep.refine import clearly_worse, distinct, finalists
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.records import Run as SweepRun
from fundamentallm.sweep.store.records import Trial

LOSS = Metric("val_loss")
SWEEP = """\
program: train.py
method: grid
metric: {name: val_loss}
parameters:
  learning_rate: {values: [0.001, 0.01]}
  lr_schedule: {values: [constant, cosine, wsd]}
  max_steps: {value: 20}
  eval_every: {value: 10}
"""


def finished(number: int, values: dict[str, object], score: float | None) -> SweepRun:
    status = RunStatus.FAILED if score is None else RunStatus.DONE
    return SweepRun(number, (Trial(number, number, values, status, "", score=score),))


def replace_status(run: SweepRun, status: RunStatus) -> SweepRun:
    return SweepRun(run.number, (replace(run.last, status=status),))


def test_finalists_are_configurations_seeds_apart() -> None:
    text = "program: train.py\nmethod: grid\nparameters:\n  dropout: {values: [0, 0.1, 0.2]}\n"
    points = SearchSpace(parse_sweep(text + "  seed: {values: [0, 1]}\n", "s"), {"epochs": 5})
    scores = [(0, 0, 2.0), (0, 1, 2.2), (0.1, 0, 1.9), (0.1, 1, 2.6), (0.2, 0, None)]
    runs = [
        finished(i, {"dropout": dropout, "seed": seed}, score)
        for i, (dropout, seed, score) in enumerate(scores)
    ]
    found = finalists(runs, points, LOSS)
    assert [each.settings for each in found] == [{"dropout": 0.0}, {"dropout": 0.1}]
    assert [round(each.loss, 3) for each in found] == [2.1, 2.25]
    again = [*runs, finished(5, {"dropout": 0, "seed": 0}, 2.0)]  # which says nothing new
    assert [round(each.loss, 3) for each in finalists(again, points, LOSS)] == [2.1, 2.25]
    best = finalists(runs, points, Metric("val_loss", "maximize"))
    assert best[0].settings == {"dropout": 0.1}
    with pytest.raises(SweepError, match=r"s: the only run failed; .*; refine needs a run"):
        finalists(runs[4:], points, LOSS)
    diverged = [replace_status(run, RunStatus.DIVERGED) for run in runs]
    with pytest.raises(SweepError, match="s: all 5 runs diverged; lower the learning rate"):
        finalists(diverged, points, LOSS)


def test_the_noise_between_seeds_tells_finalists_apart() -> None:
    text = "program: train.py\nmethod: grid\nparameters:\n  dropout: {values: [0, 0.1, 0.2, 0.3]}\n"
    points = SearchSpace(parse_sweep(text + "  seed: {values: [0, 1]}\n", "s"), {})
    scores = [(0, 0, 2.0), (0, 1, 2.02), (0.1, 0, 2.01), (0.2, 0, 2.4), (0.3, 0, 1.9)]
    runs = [
        finished(i, {"dropout": dropout, "seed": seed}, score)
        for i, (dropout, seed, score) in enumerate(scores)
    ]
    runs.append(
        SweepRun(5, (Trial(5, 5, {"dropout": 0.3, "seed": 1}, RunStatus.DIVERGED, "", score=4.0),))
    )
    found = finalists(runs, points, LOSS)
    assert [each.settings["dropout"] for each in found] == [0.0, 0.1, 0.2, 0.3]  # it diverged too
    assert clearly_worse(found[:3], found) == (
        "by the noise between seeds (0.0141), 1 of these 3 was clearly worse than the best at the "
        "sweep's length; a smaller --top leaves it out"
    )
    assert clearly_worse(found[:2], found) == ""
    assert clearly_worse(found[:1], found) == ""
    once = finalists(runs[:1] + runs[2:4], points, LOSS)
    assert clearly_worse(once, once) == ""  # no seed was repeated


def test_what_is_nearly_a_better_configuration_is_no_finalist() -> None:
    text = (
        "program: train.py\nmethod: random\nparameters:\n"
        "  learning_rate: {distribution: log_uniform_values, min: 0.0001, max: 0.1}\n"
        "  num_layers: {min: 2, max: 12}\n  dropout: {values: [0.0, 0.01]}\n"
        "  seed: {values: [0, 1]}\n"
    )
    points = SearchSpace(parse_sweep(text, "s"), {})
    tried = [  # rate, layers, dropout, seed
        (0.0028469, 4, 0.0, 0),
        (0.0028896, 4, 0.0, 1),  # 0.2% of the range away, in its logarithms
        (0.0034333, 4, 0.0, 0),  # 2.7%
        (0.0034333, 5, 0.0, 0),  # another number of layers
        (0.0028469, 4, 0.01, 0),  # another choice
        (0.0050000, 4, 0.0, 0),  # 8%
        (0.0052000, 4, 0.0, 0),
        (0.0300000, 9, 0.0, 0),
    ]
    names = ("learning_rate", "num_layers", "dropout", "seed")
    runs = [
        finished(i, dict(zip(names, values, strict=True)), 1.0 + 0.1 * i)
        for i, values in enumerate(tried)
    ]
    found = finalists(runs, points, LOSS)
    kept, passed_over = distinct(found, points, 5)
    assert [each.runs[0].number for each in kept] == [0, 3, 4, 5, 7]
    assert passed_over == 3
    assert distinct(found, points, 1) == (found[:1], 0)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([(1.0, 1.01, 0.99), (2.0, 2.01, 1.99)], "B follows with 2.0000; this is more than chance"),
        ([(1.0, 1.2, 0.8), (1.05, 1.2, 0.9)], "this may be chance: B (p = "),
        ([(1.0, 1.01, 0.99), (1.005, 1.01, 1.0), (3.0, 3.01, 2.99)], "this may be chance: B (p ="),
        ([(1.0,), (2.0,)], "this may be chance: no seed was repeated"),
        ([(1.0, 1.1)], "nothing to compare it with"),
        ([(1.0, 1.0), (2.0, 2.0)], "repeated seeds gave equal scores"),
        ([(1.0, 2.0), (2.0, 1.0)], "A and B tie at 1.5000; nothing tells them apart"),
    ],
)  # fmt: skip
def test_the_verdict_says_what_the_numbers_allow(
    scores: list[tuple[float, ...]], words: str
) -> None:
    standings = [Standing("ABC"[i], each) for i, each in enumerate(scores)]
    assert words in verdict(standings, LOSS)
    assert "C" not in verdict(standings, LOSS)


def test_verdicts_on_pure_noise_are_seldom_wrong() -> None:
    import random

    dice = random.Random(0)
    wrong = 0
    for _ in range(100):
        groups = [tuple(dice.gauss(2, 0.1) for _ in range(3)) for _ in range(4)]
        wrong += "is more than chance" in verdict([Standing("x", each) for each in groups], LOSS)
    assert wrong <= 5  # 5%


def test_what_diverged_with_a_seed_is_not_called_best() -> None:
    lucky = Standing("lucky", (1.2, 1.21), diverged=1)
    safe, worse = Standing("safe", (1.5, 1.51, 1.52)), Standing("worse", (1.9, 1.91, 1.92))
    lost = Standing("lost", (), diverged=3)
    every = [lost, lucky, worse, safe]
    assert [each.label for each in sort_standings(every, LOSS)] == [
        "safe",
        "worse",
        "lucky",
        "lost",
    ]
    assert verdict(every, LOSS).startswith("safe leads with 1.5100, worse follows")
    assert "safe is the only configuration that has a score and never diverged" in verdict(
        [lost, lucky, safe], LOSS
    )
    assert "no configuration can be called best" in verdict(
        [lost, lucky, Standing("none", ())], LOSS
    )


def test_refining_goes_on_where_the_schedule_allows_it(
    run: Run, tmp_path: Path, text_file: Path
) -> None:
    (tmp_path / "c.yaml").write_text(SWEEP)
    assert run("sweep", "c.yaml", text_file, "--", *FLAGS).returncode == 0
    assert run("refine", "runs/c").returncode == 2  # say how long
    refined = ("refine", "runs/c", "--top", 4, "--max-steps", 40, "--seeds", 2)
    done = run(*refined)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/c-refined"
    found = summaries(folder)
    assert len(found) == 8
    assert {each["step"] for each in found.values()} == {40}
    went_on: dict[str, int] = {}
    for name in found:
        config = yaml.safe_load((folder / name / "config.yaml").read_text())
        rows = metric_rows(folder / name)
        assert [row["step"] for row in rows] == [10, 20, 30, 40]
        for source in (tmp_path / "runs/c").glob("run-*"):
            before = yaml.safe_load((source / "config.yaml").read_text())
            if {**before, "max_steps": 40, "epochs": config["epochs"]} == config:
                shared = {"constant": 20, "wsd": 16}.get(config["lr_schedule"], 0)
                kept = [row for row in metric_rows(source) if row["step"] <= shared]
                assert rows[: len(kept)] == kept  # to the time that each step took
                reused = {"reused_from": f"c/{source.name}", "reused_steps": shared}
                assert {k: v for k, v in found[name].items() if k in reused} == (
                    reused if shared else {}
                )
                went_on[config["lr_schedule"]] = 1
    assert went_on["wsd"]
    count = sum("reused_from" in each for each in found.values())
    table = [line for line in done.stdout.splitlines() if "1 continued from a shorter run" in line]
    assert len(table) == count
    assert "40 (16 reused)" in (folder / "report.html").read_text("utf-8")
    assert "leads with" in done.stdout
    again = run(*refined)
    assert again.returncode == 0
    assert "starts" not in again.stdout
    assert run("refine", tmp_path / "nothing", "--epochs", 2).returncode == 2


def test_configurations_that_differ_in_the_last_digits_are_two() -> None:
    names, every = ["learning_rate"], [(0.00123412,), (0.00123449,)]
    assert list(_labels(names, every).values()) == [f"learning_rate {x!r}" for (x,) in every]
    assert _labels(names, [(0.00123412,), (0.5,)])[(0.5,)] == "learning_rate 0.5"
    assert _labels([], [()]) == {(): "the configuration"}


@pytest.mark.nightly
def test_refining_is_gone_on_with_though_others_are_the_best_now(
    run: Run, tmp_path: Path, text_file: Path
) -> None:
    (tmp_path / "c.yaml").write_text(SWEEP)
    assert run("sweep", "c.yaml", text_file, "--count=2", "--", *FLAGS).returncode == 0
    words = ("refine", "runs/c", "--top=2", "--max-steps=40", "--seeds=1")
    assert run(*words, "--count=1").returncode == 0
    assert run("agent", "runs/c").returncode == 0
    text_file.rename(tmp_path / "moved.txt")
    lost = run(*words)
    assert (lost.returncode, "give its path as --data" in lost.stderr) == (2, True)
    done = run(*words, "--data=moved.txt")
    assert done.returncode == 0, done.stderr
    assert "this may be chance: no seed was repeated" in done.stdout
    assert len(summaries(tmp_path / "runs/c-refined")) == 2
    both = run(*words, "--epochs=3")
    assert (both.returncode, "give either --epochs N or --max-steps N" in both.stderr) == (2, True)
