"""Scores are capped: for our runs at a uniform guess, for others by their spread."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from results_on_disk import write_run

from fundamentallm.metrics import score_text
from fundamentallm.report.explain import explain
from fundamentallm.report.figures import make_plots
from fundamentallm.report.read_runs import read_results
from fundamentallm.report.results import Results
from fundamentallm.report.rules.claim import Evidence
from fundamentallm.sweep.file.sweep_file import Metric, parse_sweep
from fundamentallm.sweep.refine import finalists
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.records import Run, Trial, past_runs
from fundamentallm.sweep.store.score_cap import ScoreCap, farthest, score_of_guess

OURS = {"vocabulary_size": 65, "characters_per_token": 0.5}


@pytest.mark.parametrize(
    ("metric", "guess"),
    [
        (Metric("val_loss"), math.log(65)),
        (Metric("train_loss"), math.log(65)),
        (Metric("val_perplexity"), 65.0),
        (Metric("val_bits_per_char"), math.log2(65) / 0.5),
        (Metric("perf/tokens_per_second"), None),
        (Metric("val_loss", "maximize"), None),  # then a uniform guess is no bad score
    ],
)
def test_a_score_of_guess_is_known_by_every_loss(metric: Metric, guess: float | None) -> None:
    assert score_of_guess(metric, OURS) == guess


@pytest.mark.parametrize("odd", [{}, {"vocabulary_size": "65"}, {"vocabulary_size": math.nan}])
def test_no_guess_is_made_up_for_runs_of_another_program(odd: dict[str, object]) -> None:
    assert score_of_guess(Metric("val_loss"), odd) is None


def test_our_runs_count_as_a_score_of_guess_at_worst() -> None:
    cap = ScoreCap.of([1.5, 1.6, 7.0, 26485.0], [4.2, 4.2, 4.2, None])
    assert cap.loss(1.5, 4.2) == 1.5
    assert cap.loss(7.0, 4.2) == 4.2
    assert cap.loss(26485.0, None) == 4.2  # in progress: what the others score is known


def test_other_programs_are_winsorized_by_their_better_half() -> None:
    losses = [0.1, 0.12, 0.13, 0.14, 0.2, 0.3, 9e9]
    cap = ScoreCap.of(losses, [None] * 7)
    assert [cap.loss(loss, None) for loss in losses[:6]] == losses[:6]
    assert cap.loss(9e9, None) == pytest.approx(0.14 + 10 * 0.04)


def test_a_valley_that_was_searched_evenly_is_left_as_it_is() -> None:
    losses = [(u / 50 - 1) ** 2 for u in range(101)]
    assert farthest(losses) > max(losses)


@pytest.mark.parametrize("losses", [[], [1.0], [1.0, 9e9], [1.0, 1.0, 1.0, 9e9]])
def test_too_few_differences_cap_nothing(losses: list[float]) -> None:
    assert farthest(losses) == math.inf


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.43214, "1.4321"),
        (0.0, "0.0000"),
        (55.7668, "55.767"),
        (26485.3, "26485"),
        (-127.31, "-127.31"),
        (math.exp(115), "8.788e+49"),
        (0.0000312, "3.12e-05"),
        (None, ""),
    ],
)
def test_scores_have_the_digits_that_matter(value: float | None, text: str) -> None:
    assert score_text(value) == text


@pytest.fixture(params=["ours", "another program's"])
def blown_up(request: pytest.FixtureRequest, tmp_path: Path) -> Results:
    """A rate that matters a little, and three runs that stayed finite far beyond the cliff."""
    dice = [0.003, -0.002, 0.001, -0.004]
    for number in range(15):
        rate = 0.0002 * 1.5**number
        end = 26485.0 if number > 11 else 1.5 + 0.01 * (number - 7) ** 2 + dice[number % 4]
        val = [4.5, (4.5 + end) / 2, end, end + 0.01]
        run = write_run(tmp_path / f"run-{number:02}", {"learning_rate": rate, "seed": 0}, val)
        if number > 11:  # worse from the first step on
            write_run(run, {"learning_rate": rate, "seed": 0}, [end, end, end + 1, end + 2])
        if request.param == "ours":
            summary = json.loads((run / "summary.json").read_text())
            (run / "summary.json").write_text(json.dumps({**summary, "vocabulary_size": 90}))
    return read_results([tmp_path])


def test_a_blow_up_does_not_hide_what_mattered(blown_up: Results) -> None:
    effects = Evidence(blown_up).surface.effects  # pyright: ignore[reportOptionalMemberAccess]
    assert [effect.factor.name for effect in effects] == ["learning_rate"]
    assert effects[0].size < 10
    assert 0.001 < effects[0].best < 0.009  # the valley is at 0.0034
    assert not [claim for claim in explain(blown_up) if claim.rule == "edge"]


def test_no_chart_is_crushed_by_a_blow_up(blown_up: Results) -> None:
    plots = {plot.id: plot.figure for plot in make_plots(blown_up, Evidence(blown_up))}
    assert set(plots) >= {"curves", "best", "slice-0", "parallel"}
    for name in ("best", "slice-0"):
        assert max(y for trace in plots[name].data for y in trace.y) < 10
    assert plots["curves"].layout.yaxis.range[1] < 10


def test_tables_show_what_was_logged(blown_up: Results) -> None:
    assert blown_up.ranked[-1].score == 26485.0


def test_a_search_sees_no_score_beyond_a_uniform_guess() -> None:
    attempts = [
        Trial(0, 0, {"x": 0}, "done", "me", score=1.5, guess=4.2),
        Trial(1, 1, {"x": 1}, "stopped", "me", score=26485.0, history=(9e4, 26485.0), guess=4.2),
        Trial(2, 2, {"x": 2}, "diverged", "me", score=127.0, history=(127.0, 3e5), guess=4.2),
        Trial(3, 3, {"x": 3}, "running", "me", history=(700.0,)),
    ]
    runs = [Run(each.run, (each,)) for each in attempts]
    for impute in ("worst", "latest", "best"):
        metric = Metric("val_loss", impute=impute, impute_while_running="latest")
        assert [run.score for run in past_runs(runs, metric)] == [1.5, 4.2, 4.2, 4.2]


def test_an_older_storage_knows_no_guesses_and_its_runs_are_winsorized() -> None:
    scores = [1.5, 1.52, 1.51, 1.6, 26485.0]
    runs = [Run(i, (Trial(i, i, {}, "done", "", score=s),)) for i, s in enumerate(scores)]
    found = [run.score for run in past_runs(runs, Metric("val_loss"))]
    assert found == [*scores[:4], pytest.approx(1.52 + 10 * 0.02)]


def test_finalists_are_ranked_by_capped_means(tmp_path: Path) -> None:
    """One of two seeds blew up: still better than a configuration that is bad with both."""
    text = "program: train.py\nmethod: grid\nparameters:\n"
    text += "  learning_rate: {values: [0.1, 0.001]}\n  seed: {values: [0, 1]}\n"
    points = SearchSpace(parse_sweep(text, "s"), {})
    scores = {(0.1, 0): 1.5, (0.1, 1): 26485.0, (0.001, 0): 4.0, (0.001, 1): 4.1}
    runs = [
        Run(i, (Trial(i, i, {"learning_rate": r, "seed": s}, "done", "", score=x, guess=4.2),))
        for i, ((r, s), x) in enumerate(scores.items())
    ]
    best, other = finalists(runs, points, Metric("val_loss"))
    assert (best.settings["learning_rate"], best.loss) == (0.1, pytest.approx((1.5 + 4.2) / 2))
    assert other.loss == pytest.approx(4.05)


def test_curves_of_a_blow_up_are_no_curves_of_a_run(tmp_path: Path) -> None:
    """Their losses jump and rise, which neither warm-up nor less training would mend."""
    for number in range(9):
        settings = {"learning_rate": 0.001 * (number + 1), "lr_schedule": "constant"}
        val = [4 - 2.5 * min(1, i / 4) - 0.01 * number for i in range(20)]
        if number > 4:
            val = [90.0 * (i + 1) for i in range(20)]
        write_run(tmp_path / f"run-{number}", settings, val)
    claims = {claim.rule for claim in explain(read_results([tmp_path]))}
    assert not claims & {"instability", "overfitting", "best_early"}
    evidence = Evidence(read_results([tmp_path]))
    assert [run.name for run in evidence.complete] == [f"run-{n}" for n in range(5)]
