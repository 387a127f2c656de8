"""Contract that every search must meet."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest

from fundamentallm.sweep.check.warnings import size
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.base import PastRun, Search, Values, key_of
from fundamentallm.sweep.search.bayes import BayesSearch
from fundamentallm.sweep.search.choose import ChosenSearch, choose_search
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.search.tpe_sampler import TpeSampler

MIXED = """\
program: train.py
method: {method}
run_cap: 30
metric: {{name: val_loss}}
parameters:
  learning_rate: {rate}
  model_dim: {{values: [48, 64, 96]}}
  num_heads: {{values: [2, 3, 4, 6]}}
  lr_schedule: {{values: [constant, cosine, step]}}
  lr_steps: {{values: ["", "10"]}}
  batch_size: {{values: [8, 16]}}
  epochs: {{value: 3}}
"""
RATE = "{distribution: log_uniform_values, min: 0.0001, max: 0.01}"
METHODS = {
    "grid": ("grid", "auto"),
    "random": ("random", "auto"),
    "gp": ("bayes", "gp"),
    "tpe": ("bayes", "tpe"),
    "random for bayes": ("bayes", "random"),
}


def make(name: str, seed: int = 0) -> tuple[SearchSpace, ChosenSearch]:
    method, sampler = METHODS[name]
    rate = "{values: [0.0005, 0.001]}" if method == "grid" else RATE
    space = SearchSpace(parse_sweep(MIXED.format(method=method, rate=rate), "mixed.yaml"), {})
    return space, choose_search(space, seed=seed, sampler=sampler)


def suggest(search: Search, k: int, known: list[PastRun]) -> Values:
    values = search.suggest(k, known)
    assert values is not None
    return values


def loss(values: Any) -> float:
    """Least at a rate of 0.002, in the widest model."""
    rate = math.log10(values["learning_rate"] / 0.002) ** 2
    return 1 + rate + (96 - values["model_dim"]) / 100


def study(name: str, runs: int, seed: int = 0, known: list[PastRun] | None = None) -> list[PastRun]:
    """`runs` runs one after another, each told to the next."""
    _, method = make(name, seed)
    done = list(known or [])
    while len(done) < min(runs, method.search.size or runs):
        values = suggest(method.search, len(done), done)
        done.append(PastRun(values, loss(values)))
    return done


@pytest.fixture(params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_only_possible_values_are_suggested(name: str) -> None:
    space, _ = make(name)
    for each in study(name, 14):
        assert space.is_possible(each.values)
        assert list(each.values) == [p.name for p in space.sweep.parameters]
        assert each.values["epochs"] == 3
        for parameter in space.sweep.parameters:
            assert 0 <= parameter.distribution.position(each.values[parameter.name]) <= 1


def test_a_search_that_starts_again_suggests_what_an_unbroken_one_would(name: str) -> None:
    unbroken = study(name, 14)
    assert study(name, 14, known=study(name, 11)) == unbroken


def test_another_seed_is_another_search(name: str) -> None:
    if name != "grid":
        assert study(name, 4, seed=1) != study(name, 4, seed=0)


def test_suggestions_do_not_warn_or_change_what_they_are_given(name: str) -> None:
    _, method = make(name)
    known = study(name, 11)
    before = list(known)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method.search.suggest(11, known)
    assert known == before


def test_runs_in_progress_and_failures_are_taken(name: str) -> None:
    space, method = make(name)
    done = study(name, 10)
    running = [PastRun(each.values, None, running=True) for each in done[:2]]
    failed = [
        PastRun(done[2].values, None, failed=True),
        PastRun(done[3].values, 99.0, failed=True),
    ]
    values = suggest(method.search, 12, [*running, *failed, *done[4:]])
    assert space.is_possible(values)
    nothing_good = [PastRun(each.values, None, failed=True) for each in done]
    assert space.is_possible(suggest(method.search, 10, nothing_good))


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_bayes_begins_with_the_defaults_and_beats_random(sampler: str) -> None:
    found = study(sampler, 24)
    assert dict(found[0].values) == {
        "batch_size": 16, "epochs": 3, "learning_rate": 0.001, "lr_schedule": "constant",
        "lr_steps": "", "model_dim": 96, "num_heads": 6,
    }  # fmt: skip
    assert min(each.score or 9 for each in found) < 1.05
    last = [each.score or 9 for each in found[-6:]]
    at_random = [each.score or 9 for each in study("random", 24)]
    assert sorted(last)[3] < sorted(at_random)[12]


def test_grids_leave_out_what_cannot_exist() -> None:
    space, method = make("grid")
    assert method.search.size == 2 * 2 * 10 * 5  # rates, batches, widths with heads, schedules
    assert method.left_out == 2 * 2 * (12 * 6 - 50)
    every: list[PastRun] = []
    while (values := method.search.suggest(len(every), every)) is not None:
        every.append(PastRun(values, None))
    assert len({repr(each) for each in every}) == len(every) == method.search.size
    assert all(space.is_possible(each.values) for each in every)


def test_what_goes_together_is_one_choice_and_numbers_are_ranks() -> None:
    space, method = make("tpe")
    assert isinstance(method.search, BayesSearch)
    sampler = method.search.sampler_of(0)
    assert isinstance(sampler, TpeSampler)
    labels = {axis.label: type(axis).__name__ for axis in sampler.axes}
    assert labels == {
        "model_dim+num_heads": "Choice", "lr_schedule+lr_steps": "Choice",
        "learning_rate": "Share", "batch_size": "Rank",
    }  # fmt: skip
    groups = dict(space.together())
    assert (48, 6) in (groups["model_dim", "num_heads"] or [])
    assert (64, 6) not in (groups["model_dim", "num_heads"] or [])


def test_too_many_to_list_are_moved_to_the_nearest_possible() -> None:
    text = MIXED.format(method="bayes", rate=RATE)
    text = text.replace("{values: [48, 64, 96]}", "{min: 48, max: 512}")
    space = SearchSpace(parse_sweep(text, "s"), {})
    method = choose_search(space, seed=0, sampler="tpe")
    assert dict(space.together())["model_dim", "num_heads"] is None
    done: list[PastRun] = []
    for k in range(14):
        values = suggest(method.search, k, done)
        assert space.is_possible(values)
        done.append(PastRun(values, float(values["model_dim"])))


FINITE = {  # parameters, and how many points there are
    "lists": ("num_layers: {values: [1, 2, 3, 4]}, model_dim: {values: [48, 96, 192]}", 12),
    "a seed": ("learning_rate: {values: [0.01, 0.1]}, seed: {min: 0, max: 4}", 10),
    "constants": ("dropout: {value: 0.1}, seed: {value: 3}", 1),
    "impossible ones": ("model_dim: {values: [48, 80]}, num_heads: {values: [3, 5]}", 2),
    "steps": ("dropout: {distribution: q_uniform, min: 0.0, max: 0.3, q: 0.1}", 4),
    "equal values": ("weight_decay: {values: [1, 1.0, 0.1]}", 2),
    "no probability": ("num_layers: {values: [2, 4, 6], probabilities: [0.9, 0.1, 0]}", 2),
}


def finite(kind: str, method: str, run_cap: str = "run_cap: 14") -> SearchSpace:
    parameters, _ = FINITE[kind]
    text = f"program: train.py\nmethod: {method}\n{run_cap}\nmetric: {{name: val_loss}}\n"
    return SearchSpace(parse_sweep(f"{text}parameters: {{{parameters}}}\n", "s.yaml"), {})


@pytest.mark.parametrize(
    ("kind", "method"),
    [(kind, "random") for kind in FINITE]
    + [(kind, "bayes") for kind in FINITE if kind != "constants"],  # which W&B refuses
)
def test_a_point_is_tried_once_and_the_search_ends_with_the_last(kind: str, method: str) -> None:
    """A run of the same values and seed is the same run, also while it goes on or if it failed."""
    space, count = finite(kind, method), FINITE[kind][1]
    found = choose_search(space, seed=0)
    done: list[PastRun] = []
    while (values := found.search.suggest(len(done), done)) is not None:
        kinds = ({"running": True}, {"failed": True}, {})
        done.append(PastRun(values, 2.0 + len(done) % 5, **kinds[len(done) % 3]))
        assert len(done) <= count
    assert len({key_of(run.values) for run in done}) == len(done) == count
    assert found.search.size == count
    assert size(space)[0] == count
    assert "ends before its run_cap of 14" in size(space)[1]
    assert size(finite(kind, method, ""))[0] == count
    assert "run_cap of 14" in found.used_up_before(14)
    assert found.used_up_before(count) == ""


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_space_with_no_end_in_sight_is_not_listed(method: str) -> None:
    """Ranges, normal distributions, many lists: and yet no point is tried twice."""
    for parameter, listed in (
        ("dropout: {min: 0.0, max: 0.3}", False),
        ("seed: {min: 0, max: 99}", True),
    ):
        text = f"program: train.py\nmethod: {method}\nrun_cap: 9\nmetric: {{name: val_loss}}\n"
        space = SearchSpace(parse_sweep(f"{text}parameters: {{{parameter}}}\n", "s.yaml"), {})
        assert size(space)[0] == 9
        search = choose_search(space, seed=0).search
        assert (search.size is not None) == listed
    huge = ", ".join(
        f"{name}: {{min: 1, max: 100}}" for name in ("patience", "epochs", "batch_size")
    )
    space = SearchSpace(parse_sweep(f"{text}parameters: {{{huge}}}\n", "s.yaml"), {})
    assert choose_search(space, seed=0).search.size is None
