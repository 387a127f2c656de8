"""Bayesian search: its axes, its samplers, and what they learn from failures."""

from __future__ import annotations

import pytest

from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.base import PastRun, Search, Values
from fundamentallm.sweep.search.bayes import GP_LONGEST, BayesSearch, scored
from fundamentallm.sweep.search.choose import choose_search
from fundamentallm.sweep.search.gp_sampler import GpSampler
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.search.tpe_sampler import TpeSampler


def suggest(search: Search, k: int, known: list[PastRun]) -> Values:
    values = search.suggest(k, known)
    assert values is not None
    return values


def test_failures_count_as_the_worst_that_did_not_fail() -> None:
    good, worse = PastRun({"x": 1}, 1.5), PastRun({"x": 2}, 2.5)
    diverged = PastRun({"x": 3}, 1000.0, failed=True)
    broken = PastRun({"x": 4}, None, failed=True)
    running = PastRun({"x": 5}, None, running=True)
    told = scored([good, worse, diverged, broken, running])
    assert [score for _, score in told] == [1.5, 2.5, 2.5, 2.5, None]
    assert [score for _, score in scored([diverged, broken])] == [1000.0, 1000.0]
    assert scored([broken]) == []


def test_bayes_takes_a_very_wide_range_of_whole_numbers() -> None:
    text = (
        "program: train.py\nmethod: bayes\nrun_cap: 9\nmetric: {name: val_loss}\n"
        "parameters:\n  seed: {min: 0, max: 4294967295}\n"
    )
    space = SearchSpace(parse_sweep(text, "x.yaml"), {})
    search = choose_search(space, seed=0).search
    known: list[PastRun] = []
    for k in range(6):
        values = suggest(search, k, known)
        assert 0 <= values["seed"] <= 4294967295
        known.append(PastRun(values, float(k)))


def test_bayes_of_fractions_that_are_written_as_whole_numbers_begins() -> None:
    text = (
        "program: train.py\nmethod: bayes\nmetric: {name: val_loss}\n"
        "parameters: {weight_decay: {min: 0, max: 1}, seed: {min: 0, max: 4294967295}}\n"
    )
    search = choose_search(SearchSpace(parse_sweep(text, "s.yaml"), {}), seed=0).search
    first = suggest(search, 0, [])
    assert first["weight_decay"] in (0, 1)
    second = suggest(search, 1, [PastRun(first, 1.0)])  # the seeds are not written out for it
    assert second != first


def test_a_sweep_without_end_gives_way_to_tpe() -> None:
    text = "program: train.py\nmethod: bayes\nmetric: {name: val_loss}\nparameters:\n"
    space = SearchSpace(parse_sweep(f"{text}  dropout: {{min: 0.0, max: 0.5}}\n", "s.yaml"), {})
    search = choose_search(space, seed=0).search
    assert isinstance(search, BayesSearch)
    kinds = [type(search.sampler_of(k)) for k in (GP_LONGEST - 1, GP_LONGEST)]
    assert kinds == [GpSampler, TpeSampler]
    chosen = choose_search(space, seed=0, sampler="gp").search
    assert isinstance(chosen, BayesSearch)
    assert chosen.gp_longest is None


def test_bayes_over_steps_of_the_schedule() -> None:
    text = "program: train.py\nmethod: bayes\nrun_cap: 9\nmetric: {name: val_loss}\nparameters:\n"
    text += "  lr_schedule: {value: step}\n  lr_steps: {min: 1000, max: 10000}\n"
    space = SearchSpace(parse_sweep(text, "s"), {})
    assert space.defaults() == {"lr_schedule": "step", "lr_steps": 5500}
    assert 1000 <= suggest(choose_search(space, seed=0).search, 1, [])["lr_steps"] <= 10000


def test_bayes_never_tries_what_has_no_probability() -> None:
    text = "program: train.py\nmethod: bayes\nrun_cap: 9\nmetric: {name: val_loss}\nparameters:\n"
    text += "  num_layers: {values: [2, 4, 6], probabilities: [0.5, 0.5, 0]}\n"
    text += "  dropout: {min: 0.0, max: 0.5}\n"
    space = SearchSpace(parse_sweep(text, "s"), {})
    assert space.defaults()["num_layers"] == 4  # 6 is the default, and has none
    search, known = choose_search(space, seed=0).search, []
    for k in range(9):
        values = suggest(search, k, known)
        known.append(PastRun(values, 3.0 - values["num_layers"] / 10, running=False, failed=False))
    assert {run.values["num_layers"] for run in known} == {2, 4}


def gp_of(parameter: str) -> tuple[SearchSpace, BayesSearch]:
    text = "program: train.py\nmethod: bayes\nrun_cap: 9\nmetric: {name: val_loss}\nparameters:\n"
    space = SearchSpace(parse_sweep(f"{text}  {parameter}\n", "s"), {})
    search = choose_search(space, seed=0).search
    assert isinstance(search, BayesSearch)
    return space, search


def test_a_search_that_is_drawn_to_an_end_tries_the_end_itself() -> None:
    _, search = gp_of("dropout: {min: 0.0, max: 0.3}")
    done: list[PastRun] = []
    for k in range(8):
        values = suggest(search, k, done)
        done.append(PastRun(values, 1.5 + values["dropout"]))
        assert len(str(values["dropout"])) <= len("0.12345")
    assert 0.0 in [run.values["dropout"] for run in done]


def test_an_end_that_cannot_be_is_come_near_to() -> None:
    """No run has a learning rate of 0."""
    space, search = gp_of("learning_rate: {min: 0.0, max: 0.1}")
    done: list[PastRun] = []
    for k in range(8):
        values = suggest(search, k, done)
        assert space.is_possible(values)
        done.append(PastRun(values, 1.5 + values["learning_rate"]))
    assert min(run.values["learning_rate"] for run in done) <= 2e-7


@pytest.mark.parametrize(
    ("low", "high", "first"), [(0.001, 0.01, 0.001), (0.00001, 0.001, 0.001), (0.002, 0.1, 0.002)]
)
def test_defaults_first_are_the_defaults_themselves(low: float, high: float, first: float) -> None:
    ends = f"min: {low}, max: {high}"
    space, search = gp_of(f"learning_rate: {{distribution: log_uniform_values, {ends}}}")
    assert space.defaults() == search.suggest(0, []) == {"learning_rate": first}
