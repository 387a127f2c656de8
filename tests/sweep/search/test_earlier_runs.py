"""A search that knows the runs of earlier sweeps."""

from __future__ import annotations

import statistics
import sys

import pytest
from conftest import ROOT

from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.base import PastRun
from fundamentallm.sweep.search.bayes import GP_LONGEST, BayesSearch
from fundamentallm.sweep.search.choose import choose_search
from fundamentallm.sweep.search.gp_sampler import GpSampler
from fundamentallm.sweep.search.seeds import SeededSpace
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.search.tpe_sampler import TpeSampler

sys.path.insert(0, str(ROOT / "benchmarks"))
from earlier_sweeps import regret, simulated
from simulated_training import SimulatedTraining

RATE = """\
program: train.py
method: bayes
run_cap: 9
metric: {name: val_loss}
parameters:
  learning_rate: {distribution: log_uniform_values, min: 0.0001, max: 0.1}
"""


def space_of(text: str = RATE) -> SearchSpace:
    return SearchSpace(parse_sweep(text, "s.yaml"), {})


def test_after_few_runs_a_search_that_knows_earlier_ones_is_better() -> None:
    """The earlier sweep was random, so it helps by what it tells, not by its best."""
    cold: list[float] = []
    warm: list[float] = []
    before: list[float] = []
    for seed in range(5):
        landscape = SimulatedTraining(seed)
        space = space_of(landscape.sweep)
        earlier = simulated(choose_search(space, seed=1, sampler="random").search, landscape, 20)
        before.append(regret(earlier, landscape))
        for known, found in (((), cold), (earlier, warm)):
            search = choose_search(space, seed=2, earlier=known).search
            found.append(regret(simulated(search, landscape, 8), landscape))
    assert statistics.median(warm) < 0.7 * statistics.median(cold)
    assert statistics.median(warm) < 0.7 * statistics.median(before)


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_earlier_runs_lead_the_first_of_the_new_sweep(sampler: str) -> None:
    rates = [10 ** (-3.95 + k / 10) for k in range(29)]
    earlier = [PastRun({"learning_rate": rate}, abs(rate - 0.03)) for rate in rates]
    space = space_of()
    first = choose_search(space, seed=0, sampler=sampler, earlier=earlier).search
    assert first.suggest(0, []) == space.defaults()  # which none of them had
    tried = [*earlier, PastRun(space.defaults(), 0.029)]
    values = choose_search(space, seed=0, sampler=sampler, earlier=tried).search.suggest(0, [])
    assert values is not None
    assert 0.02 < values["learning_rate"] < 0.045


def test_the_same_values_may_be_tried_again() -> None:
    text = RATE.replace("distribution: log_uniform_values, min: 0.0001, max: 0.1", "values: [1, 2]")
    earlier = [PastRun({"learning_rate": rate}, float(rate)) for rate in (1, 2)]
    search = choose_search(space_of(text), seed=0, earlier=earlier).search
    assert search.size == 2
    found: list[PastRun] = []
    while (values := search.suggest(len(found), found)) is not None:
        found.append(PastRun(values, 1.0))
    assert sorted(run.values["learning_rate"] for run in found) == [1, 2]


def test_a_search_with_several_seeds_takes_the_seeds_of_earlier_runs_for_repeats() -> None:
    rates = [10 ** (-3.95 + k / 10) for k in range(29)]
    scores = {rate: abs(rate - 0.03) for rate in (*rates, 0.001)}
    earlier = [
        PastRun({"learning_rate": rate, "seed": k % 3}, score)
        for k, (rate, score) in enumerate(scores.items())
    ]
    search = choose_search(SeededSpace(space_of(), 3), seed=0, earlier=earlier).search
    values = search.suggest(0, [])  # not the defaults, which they had
    assert values is not None
    assert 0.02 < values["learning_rate"] < 0.045
    assert values["seed"] == 0


def test_earlier_runs_count_towards_those_that_tpe_is_for() -> None:
    earlier = [PastRun({"learning_rate": 0.001 + k / 1e5}, 1.0) for k in range(GP_LONGEST - 2)]
    assert choose_search(space_of(), seed=0, earlier=earlier).label == "tpe"
    endless = space_of(RATE.replace("run_cap: 9\n", ""))
    search = choose_search(endless, seed=0, earlier=earlier).search
    assert isinstance(search, BayesSearch)
    kinds = [type(search.sampler_of(k)) for k in (1, 2)]
    assert kinds == [GpSampler, TpeSampler]
