"""One test says whether the best configuration leads; explain and refine both ask it."""

from __future__ import annotations

from pathlib import Path

import pytest
from results_on_disk import write_sweep

from fundamentallm.report.explain import explain
from fundamentallm.report.read_runs import read_results
from fundamentallm.report.standings import Standing, verdict
from fundamentallm.significance import Noise, judge_winner, pooled_noise
from fundamentallm.sweep.file.sweep_file import Metric

ONE_LESS_SURE = {0.001: [1.50, 1.51, 1.49], 0.002: [1.53, 1.54, 1.52], 0.004: [1.532]}
"""Losses of seeds by learning rate: the third is farther than the runner-up, but ran only once."""


@pytest.mark.parametrize("noise", [None, Noise(0.0, freedom=2, repeated=1)])
def test_nothing_is_known_without_noise(noise: Noise | None) -> None:
    judged = judge_winner([[1.0, 1.0, 1.0], [2.0]], noise)
    assert not judged.is_known
    assert not judged.is_clear


def test_noise_needs_a_repeated_configuration() -> None:
    assert pooled_noise([[1.0], [2.0]]) is None
    assert pooled_noise([[1.0, 2.0], [3.0]]) == Noise(pytest.approx(0.5**0.5), 1, 1)


def test_a_winner_leads_every_other_not_the_runner_up_alone() -> None:
    scores = list(ONE_LESS_SURE.values())
    judged = judge_winner(scores, pooled_noise(scores))
    assert judged.inseparable == [1]
    assert not judged.is_clear


def test_explain_and_refine_give_the_same_verdict(tmp_path: Path) -> None:
    results = read_results([write_sweep(tmp_path, ONE_LESS_SURE)])
    winner = next(claim for claim in explain(results) if claim.rule == "winner")
    standings = [Standing(str(rate), tuple(scores)) for rate, scores in ONE_LESS_SURE.items()]
    said = verdict(standings, Metric("val_loss", "minimize"))
    assert winner.verdict == "tied"
    assert "learning_rate 0.004) may be as good" in winner.says
    assert "this may be chance: 0.004 (p = " in said
