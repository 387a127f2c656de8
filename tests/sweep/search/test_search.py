"""What every way of choosing values must do; then what is special to each."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from conftest import ROOT

from fundamentallm.sweep.check.warnings import size
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import Metric, parse_sweep, read_sweep
from fundamentallm.sweep.search.base import PastRun, key_of
from fundamentallm.sweep.search.bayes import GP_LONGEST, BayesSearch, scored
from fundamentallm.sweep.search.choose import ChosenSearch, choose_search
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.records import (
    Run,
    RunIndex,
    Trial,
    reason_to_give_up,
    target_is_reached,
    tried,
)

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
    points = SearchSpace(parse_sweep(MIXED.format(method=method, rate=rate), "mixed.yaml"), {})
    return points, choose_search(points, seed=seed, sampler=sampler)


def loss(values: Any) -> float:
    """Least at a rate of 0.002, in the widest model."""
    rate = math.log10(values["learning_rate"] / 0.002) ** 2
    return 1 + rate + (96 - values["model_dim"]) / 100


def study(name: str, runs: int, seed: int = 0, known: list[PastRun] | None = None) -> list[PastRun]:
    """`runs` runs one after another, each told to the next."""
    _, method = make(name, seed)
    done = list(known or [])
    while len(done) < min(runs, method.search.size or runs):
        values = method.search.suggest(len(done), done)
        done.append(PastRun(values, loss(values)))
    return done


@pytest.fixture(params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_only_possible_values_are_suggested(name: str) -> None:
    points, _ = make(name)
    for each in study(name, 14):
        assert points.is_possible(each.values)
        assert list(each.values) == [p.name for p in points.sweep.parameters]
        assert each.values["epochs"] == 3
        for parameter in points.sweep.parameters:
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
    points, method = make(name)
    done = study(name, 10)
    running = [PastRun(each.values, None, running=True) for each in done[:2]]
    failed = [
        PastRun(done[2].values, None, failed=True),
        PastRun(done[3].values, 99.0, failed=True),
    ]
    values = method.search.suggest(12, [*running, *failed, *done[4:]])
    assert points.is_possible(values)
    nothing_good = [PastRun(each.values, None, failed=True) for each in done]
    assert points.is_possible(method.search.suggest(10, nothing_good))


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
    points, method = make("grid")
    assert method.search.size == 2 * 2 * 10 * 5  # rates, batches, widths with heads, schedules
    assert method.left_out == 2 * 2 * (12 * 6 - 50)
    every = [method.search.suggest(k, []) for k in range(method.search.size)]
    assert len({repr(each) for each in every}) == method.search.size
    assert all(points.is_possible(each) for each in every)


def test_what_goes_together_is_one_choice_and_numbers_are_ranks() -> None:
    points, method = make("gp")
    assert isinstance(method.search, BayesSearch)
    labels = {axis.label: type(axis).__name__ for axis in method.search.axes}
    assert labels == {
        "model_dim+num_heads": "Choice", "lr_schedule+lr_steps": "Choice",
        "learning_rate": "Share", "batch_size": "Rank",
    }  # fmt: skip
    groups = dict(points.together())
    assert (48, 6) in (groups["model_dim", "num_heads"] or [])
    assert (64, 6) not in (groups["model_dim", "num_heads"] or [])


def test_too_many_to_list_are_moved_to_the_nearest_possible() -> None:
    text = MIXED.format(method="bayes", rate=RATE)
    text = text.replace("{values: [48, 64, 96]}", "{min: 48, max: 512}")
    points = SearchSpace(parse_sweep(text, "s"), {})
    method = choose_search(points, seed=0, sampler="tpe")
    assert dict(points.together())["model_dim", "num_heads"] is None
    done: list[PastRun] = []
    for k in range(14):
        values = method.search.suggest(k, done)
        assert points.is_possible(values)
        done.append(PastRun(values, float(values["model_dim"])))


def test_which_sampler_bayes_means() -> None:
    def label(name: str, change: Callable[[str], str] = lambda text: text) -> str:
        text = change((ROOT / f"sweeps/{name}.yaml").read_text())
        return choose_search(SearchSpace(parse_sweep(text, "s"), {}), seed=0).label

    assert label("lr") == "gp"
    assert label("full") == "tpe"  # it has early_terminate
    assert label("lr", lambda text: text.replace("run_cap: 12", "run_cap: 300")) == "tpe"
    assert label("random") == "random"
    assert label("grid") == "grid"


def test_a_space_without_a_possible_point_is_refused() -> None:
    text = "program: train.py\nmethod: {}\nrun_cap: 2\nmetric: {{name: val_loss}}\nparameters:\n"
    text += "  model_dim: {{values: [7, 11]}}\n  num_heads: {{values: [2, 4]}}\n"
    for method in ("grid", "random", "bayes"):
        points = SearchSpace(parse_sweep(text.format(method), "s"), {})
        with pytest.raises(SweepError, match=r"no point|no values of model_dim and num_heads"):
            choose_search(points, seed=0).search.suggest(0, [])
    huge = "program: train.py\nmethod: grid\nparameters:\n"
    huge += "  seed: {min: 0, max: 1000000}\n  max_steps: {min: 1, max: 1000000}\n"
    with pytest.raises(SweepError, match="points"):
        choose_search(SearchSpace(parse_sweep(huge, "s"), {}), seed=0)


def test_failures_count_as_the_worst_that_did_not_fail() -> None:
    good, worse = PastRun({"x": 1}, 1.5), PastRun({"x": 2}, 2.5)
    diverged = PastRun({"x": 3}, 1000.0, failed=True)
    broken = PastRun({"x": 4}, None, failed=True)
    running = PastRun({"x": 5}, None, running=True)
    told = scored([good, worse, diverged, broken, running])
    assert [score for _, score in told] == [1.5, 2.5, 2.5, 2.5, None]
    assert [score for _, score in scored([diverged, broken])] == [1000.0, 1000.0]
    assert scored([broken]) == []


def attempt(run: int, status: str, score: float | None = None, *history: float) -> Trial:
    return Trial(run, run, {"x": run}, status, "me", score=score, history=history)


@pytest.mark.parametrize(
    ("impute", "while_running", "expected"),
    [
        ("worst", None, [(-3.0, False), (-1.0, False), (-2.0, True), (None, False)]),
        ("latest", "latest", [(-3.0, False), (-1.0, False), (-1.5, False), (-4.0, False)]),
        ("best", "best", [(-3.0, False), (-1.0, False), (-2.0, False), (-5.0, False)]),
        ("worst", "worst", [(-3.0, False), (-1.0, False), (-2.0, True), (-1.0, False)]),
    ],
)
def test_wandb_s_imputes(impute: str, while_running: str | None, expected: Any) -> None:
    metric = Metric("accuracy", "maximize", None, impute, while_running)
    attempts = [attempt(0, "done", 3.0, 1.0, 3.0), attempt(1, "done", 1.0, 1.0)]
    attempts += [attempt(2, "diverged", 2.0, 2.0, 1.5), attempt(3, "running", None, 5.0, 4.0)]
    found = tried([Run(each.run, (each,)) for each in attempts], metric)
    assert [(each.score, each.failed) for each in found] == expected
    assert [each.running for each in found] == [False, False, False, True]


def test_every_bundled_bayes_has_its_defaults_among_the_possible() -> None:
    for file in (ROOT / "sweeps").glob("*.yaml"):
        points = SearchSpace(read_sweep(file), {})
        assert points.is_possible(points.defaults())


@pytest.mark.parametrize(
    ("goal", "target", "reached"),
    [
        ("minimize", None, False),
        ("minimize", 1.4, False),
        ("minimize", 1.5, True),  # by the run that goes on
        ("minimize", 1.8, True),
        ("maximize", 3.0, True),
        ("maximize", 3.1, False),
    ],
)
def test_a_target_is_reached_by_any_run(goal: str, target: float | None, reached: bool) -> None:
    attempts = [
        Trial(1, 0, {}, "running", "a", history=(3.0, 1.5, 1.6)),
        Trial(2, 1, {}, "done", "b", score=1.7, history=(2.0, 1.7)),
        Trial(3, 2, {}, "failed", "b"),
    ]
    assert target_is_reached(RunIndex.of(attempts), Metric("m", goal, target)) == reached


def test_what_an_earlier_attempt_reached_is_not_forgotten() -> None:
    """A run that goes on is the same run, before its first new value too."""
    before = Trial(1, 0, {}, "interrupted", "a", history=(3.0, 0.9))
    now = Trial(2, 0, {}, "running", "a")
    run = Run(0, (before, now))
    assert target_is_reached(RunIndex.of([before, now]), Metric("val_loss", target=1.0))
    assert run.history == (3.0, 0.9)
    assert Run(0, (before, replace(now, history=(2.0,)))).history == (2.0,)


def test_bayes_takes_a_very_wide_range_of_whole_numbers() -> None:
    """Optuna's Gaussian process would write down each of them."""
    text = (
        "program: train.py\nmethod: bayes\nrun_cap: 9\nmetric: {name: val_loss}\n"
        "parameters:\n  seed: {min: 0, max: 4294967295}\n"
    )
    points = SearchSpace(parse_sweep(text, "x.yaml"), {})
    search = choose_search(points, seed=0).search
    known: list[PastRun] = []
    for k in range(6):
        values = search.suggest(k, known)
        assert 0 <= values["seed"] <= 4294967295
        known.append(PastRun(values, float(k)))


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
    points, count = finite(kind, method), FINITE[kind][1]
    found = choose_search(points, seed=0)
    done: list[PastRun] = []
    while (values := found.search.suggest(len(done), done)) is not None:
        kinds = ({"running": True}, {"failed": True}, {})
        done.append(PastRun(values, 2.0 + len(done) % 5, **kinds[len(done) % 3]))
        assert len(done) <= count
    assert len({key_of(run.values) for run in done}) == len(done) == count
    assert found.search.size == count
    assert size(points)[0] == count
    assert "ends before its run_cap of 14" in size(points)[1]
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
        points = SearchSpace(parse_sweep(f"{text}parameters: {{{parameter}}}\n", "s.yaml"), {})
        assert size(points)[0] == 9
        search = choose_search(points, seed=0).search
        assert (search.size is not None) == listed
    huge = ", ".join(
        f"{name}: {{min: 1, max: 100}}" for name in ("patience", "epochs", "batch_size")
    )
    points = SearchSpace(parse_sweep(f"{text}parameters: {{{huge}}}\n", "s.yaml"), {})
    assert choose_search(points, seed=0).search.size is None


def test_bayes_of_fractions_that_are_written_as_whole_numbers_begins() -> None:
    text = (
        "program: train.py\nmethod: bayes\nmetric: {name: val_loss}\n"
        "parameters: {weight_decay: {min: 0, max: 1}, seed: {min: 0, max: 4294967295}}\n"
    )
    search = choose_search(SearchSpace(parse_sweep(text, "s.yaml"), {}), seed=0).search
    first = search.suggest(0, [])
    assert first["weight_decay"] in (0, 1)
    second = search.suggest(1, [PastRun(first, 1.0)])  # the seeds are not written out for it
    assert second != first


def test_a_sweep_without_end_gives_way_to_tpe() -> None:
    text = "program: train.py\nmethod: bayes\nmetric: {name: val_loss}\nparameters:\n"
    points = SearchSpace(parse_sweep(f"{text}  dropout: {{min: 0.0, max: 0.5}}\n", "s.yaml"), {})
    search = choose_search(points, seed=0).search
    assert isinstance(search, BayesSearch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as where it is called
        kinds = [type(search._make_sampler(k)).__name__ for k in (GP_LONGEST - 1, GP_LONGEST)]
    assert kinds == ["GPSampler", "TPESampler"]
    chosen = choose_search(points, seed=0, sampler="gp").search
    assert isinstance(chosen, BayesSearch)
    assert chosen.gp_longest is None


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_no_combination_is_refused_before_anything_begins(method: str) -> None:
    text = f"program: train.py\nmethod: {method}\nrun_cap: 3\nmetric: {{name: val_loss}}\n"
    text += "parameters:\n  num_heads: {values: [8, 16]}\n  dropout: {min: 0.0, max: 0.5}\n"
    with pytest.raises(SweepError, match="no values of num_heads that the sweep has"):
        choose_search(SearchSpace(parse_sweep(text, "s"), {"model_dim": 100}), seed=0)


def test_bayes_over_steps_of_the_schedule() -> None:
    text = "program: train.py\nmethod: bayes\nrun_cap: 9\nmetric: {name: val_loss}\nparameters:\n"
    text += "  lr_schedule: {value: step}\n  lr_steps: {min: 1000, max: 10000}\n"
    points = SearchSpace(parse_sweep(text, "s"), {})
    assert points.defaults() == {"lr_schedule": "step", "lr_steps": 5500}
    assert 1000 <= choose_search(points, seed=0).search.suggest(1, [])["lr_steps"] <= 10000


def test_bayes_never_tries_what_has_no_probability() -> None:
    text = "program: train.py\nmethod: bayes\nrun_cap: 9\nmetric: {name: val_loss}\nparameters:\n"
    text += "  num_layers: {values: [2, 4, 6], probabilities: [0.5, 0.5, 0]}\n"
    text += "  dropout: {min: 0.0, max: 0.5}\n"
    points = SearchSpace(parse_sweep(text, "s"), {})
    assert points.defaults()["num_layers"] == 4  # 6 is the default, and has none
    search, known = choose_search(points, seed=0).search, []
    for k in range(9):
        values = search.suggest(k, known)
        known.append(PastRun(values, 3.0 - values["num_layers"] / 10, running=False, failed=False))
    assert {run.values["num_layers"] for run in known} == {2, 4}


def test_a_worker_whose_runs_all_fail_gives_up() -> None:
    assert reason_to_give_up(["failed"] * 5) == "errors: all of the first 5 runs here failed"
    assert reason_to_give_up(["failed", "interrupted"] * 5)
    assert not reason_to_give_up(["failed"] * 4)
    for other in ("done", "stopped", "diverged", "impossible", "oom", "died", "hung"):
        assert not reason_to_give_up([*["failed"] * 3, other, *["failed"] * 5])


def gp_of(parameter: str) -> tuple[SearchSpace, BayesSearch]:
    text = "program: train.py\nmethod: bayes\nrun_cap: 9\nmetric: {name: val_loss}\nparameters:\n"
    points = SearchSpace(parse_sweep(f"{text}  {parameter}\n", "s"), {})
    search = choose_search(points, seed=0).search
    assert isinstance(search, BayesSearch)
    return points, search


def test_a_search_that_is_drawn_to_an_end_tries_the_end_itself() -> None:
    _, search = gp_of("dropout: {min: 0.0, max: 0.3}")
    done: list[PastRun] = []
    for k in range(8):
        values = search.suggest(k, done)
        assert values is not None
        done.append(PastRun(values, 1.5 + values["dropout"]))
        assert len(str(values["dropout"])) <= len("0.12345")
    assert 0.0 in [run.values["dropout"] for run in done]


def test_an_end_that_cannot_be_is_come_near_to() -> None:
    """No run has a learning rate of 0."""
    points, search = gp_of("learning_rate: {min: 0.0, max: 0.1}")
    done: list[PastRun] = []
    for k in range(8):
        values = search.suggest(k, done)
        assert values is not None
        assert points.is_possible(values)
        done.append(PastRun(values, 1.5 + values["learning_rate"]))
    assert min(run.values["learning_rate"] for run in done) <= 2e-7


@pytest.mark.parametrize(
    ("low", "high", "first"), [(0.001, 0.01, 0.001), (0.00001, 0.001, 0.001), (0.002, 0.1, 0.002)]
)
def test_defaults_first_are_the_defaults_themselves(low: float, high: float, first: float) -> None:
    ends = f"min: {low}, max: {high}"
    points, search = gp_of(f"learning_rate: {{distribution: log_uniform_values, {ends}}}")
    assert points.defaults() == search.suggest(0, []) == {"learning_rate": first}
