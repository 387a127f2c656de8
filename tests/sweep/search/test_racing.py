"""Several seeds: which configuration gets one, when new ones are tried, and what is refused."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.base import PastRun, Search, Values, key_of
from fundamentallm.sweep.search.choose import choose_search
from fundamentallm.sweep.search.racing import (
    SeededSearch,
    configurations_of,
    contenders,
    next_in_race,
)
from fundamentallm.sweep.search.seeds import SeededSpace
from fundamentallm.sweep.search.space import SearchSpace

SWEEP = """\
program: train.py
method: {method}
metric: {{name: val_loss}}
{more}
parameters:
  learning_rate: {rate}
"""
GRID = "{values: [0.0001, 0.001, 0.002, 0.004, 0.008, 0.1]}"
RANGE = "{distribution: log_uniform_values, min: 0.0001, max: 0.1}"


def space(method: str = "grid", more: str = "", rate: str = GRID, seeds: int = 3) -> SeededSpace:
    text = SWEEP.format(method=method, more=more, rate=rate)
    return SeededSpace(SearchSpace(parse_sweep(text, "s.yaml"), {}), seeds)


def race(
    scores: dict[str, Sequence[float]], left: float = 99, *, running: str = "", failed: str = ""
) -> str | None:
    """Name of the configuration whose turn it is, given the scores of each."""
    runs = [
        PastRun({"x": name, "seed": seed}, score)
        for name, own in scores.items()
        for seed, score in enumerate(own)
    ]
    for name in running:
        seed = sum(run.values["x"] == name for run in runs)
        runs.append(PastRun({"x": name, "seed": seed}, None, running=True))
    for name in failed:
        seed = sum(run.values["x"] == name for run in runs)
        runs.append(PastRun({"x": name, "seed": seed}, 9.0, failed=True))
    found = next_in_race(configurations_of(runs, "seed"), 3, left)
    return None if found is None else str(found.values["x"])


def test_the_best_mean_gets_its_seeds_first() -> None:
    assert race({"a": [2.0], "b": [1.0], "c": [3.0]}) == "b"
    assert race({"a": [2.0], "b": [1.0, 1.2], "c": [3.0]}) == "b"
    assert race({"a": [1.05], "b": [1.0, 1.2], "c": [3.0]}) == "a"  # which now leads
    assert race({}) is None
    assert race({}, running="ab") is None


def test_then_those_that_may_be_better_the_likeliest_first() -> None:
    done = {"b": [1.0, 1.1, 1.2], "d": [1.2, 1.3, 1.4]}
    assert race({**done, "a": [1.25], "c": [3.0]}) == "a"
    assert race({**done, "a": [1.3], "e": [1.2, 1.15]}) == "e"
    assert race({**done, "c": [3.0]}) is None  # clearly worse, with one seed
    assert race({**done, "a": [1.25, 1.25, 1.25]}) is None  # it has all of its seeds


def test_without_noise_nothing_can_change() -> None:
    """A program whose seed has no effect: the best shows it, and no other gets a seed."""
    assert race({"a": [1.0], "b": [2.0]}) == "a"
    assert race({"a": [1.0] * 3, "b": [1.001]}) is None


def test_runs_in_progress_take_seeds() -> None:
    assert race({"a": [2.0], "b": [1.0]}, running="b") == "b"
    assert race({"a": [2.0], "b": [1.0]}, running="bb") == "a"  # anyone may be as good so far
    assert race({"a": [2.0], "b": [1.0]}, running="bbaa") is None


def test_one_that_diverged_with_a_seed_is_out() -> None:
    assert race({"a": [1.0], "b": [2.0]}, failed="a") == "b"
    assert race({"a": [1.0], "b": [2.0]}, failed="ab") == "a"  # if each did, all count


def test_whoever_overtakes_could_get_all_seeds() -> None:
    done = {"b": [1.0, 1.1, 1.2], "a": [1.15]}
    assert race(done, left=2) == "a"
    assert race(done, left=1) is None
    assert race({**done, "e": [1.3, 1.2]}, left=1) == "e"


def loss(values: Values, noise: float) -> float:
    dice = random.Random(f"{values['learning_rate']} {values['seed']}")
    return abs(values["learning_rate"] - 0.002) * 100 + dice.gauss(0, noise)


def study(
    search: Search, noise: float, known: Sequence[PastRun] = (), workers: int = 1
) -> list[PastRun]:
    """All runs of a sweep; with several workers, in an order in which runs may overlap."""
    done = list(known)
    in_flight: list[int] = []
    dice = random.Random(0)
    while True:
        values = None if len(in_flight) == workers else search.suggest(len(done), done)
        if values is not None:
            in_flight.append(len(done))
            done.append(PastRun(values, None, running=True))
        elif in_flight:
            k = in_flight.pop(dice.randrange(len(in_flight)))
            done[k] = replace(done[k], score=loss(done[k].values, noise), running=False)
        else:
            return done


class Limited:
    """Search that ends with the engine's limit."""

    def __init__(self, search: Search, limit: int) -> None:
        self.search, self.limit, self.size = search, limit, search.size

    def suggest(self, k: int, past_runs: Sequence[PastRun]) -> Values | None:
        return None if k >= self.limit else self.search.suggest(k, past_runs)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_grid_is_complete_and_the_best_has_every_seed(workers: int) -> None:
    search = choose_search(space(), seed=0).search
    assert search.size == 18
    done = study(search, 0.01, workers=workers)
    known = configurations_of(done, "seed")
    assert [each.values["learning_rate"] for each in known] == [
        0.0001, 0.001, 0.002, 0.004, 0.008, 0.1,
    ]  # fmt: skip
    assert len({key_of(run.values) for run in done}) == len(done) < 18
    best = contenders(known)[0]
    assert best.values == {"learning_rate": 0.002}
    assert [run.values["seed"] for run in best.runs] == [0, 1, 2]
    assert len(known[-1].runs) == 1  # the rate that is far off


@pytest.mark.parametrize("method", ["random", "bayes"])
@pytest.mark.parametrize("workers", [1, 3])
def test_run_cap_counts_runs(method: str, workers: int) -> None:
    search = choose_search(space(method, "run_cap: 24", RANGE), seed=0).search
    done = study(Limited(search, 24), 0.05, workers=workers)
    assert len(done) == 24
    known = configurations_of(done, "seed")
    assert 18 <= len(known) < 24
    assert all(len(each.runs) == 1 for each in configurations_of(done[:18], "seed"))
    assert len(contenders(known)[0].losses) == 3
    first = [run.values for run in done[:18]]
    alone = choose_search(space(method, "run_cap: 24", RANGE).one_seed, seed=0).search
    if workers == 1:  # the search suggests what it would without seeds
        again: list[PastRun] = []
        for k, values in enumerate(first):
            assert alone.suggest(k, again) == values
            again.append(done[k])


def test_without_an_end_a_quarter_of_the_runs_repeats_the_best() -> None:
    search = choose_search(space("random", rate=RANGE), seed=0).search
    assert search.size is None
    done = study(Limited(search, 40), 0.5)
    assert len(configurations_of(done, "seed")) == 30
    done = study(Limited(search, 40), 0.0)  # nothing to repeat but the best
    assert len(configurations_of(done, "seed")) > 30


@pytest.mark.parametrize("at", [3, 19, 22])
def test_a_resumed_sweep_decides_as_an_unbroken_one(at: int) -> None:
    unbroken = study(
        Limited(choose_search(space("bayes", "run_cap: 24", RANGE), seed=0).search, 24), 0.05
    )
    again = choose_search(space("bayes", "run_cap: 24", RANGE), seed=0).search
    assert study(Limited(again, 24), 0.05, known=unbroken[:at]) == unbroken


def test_a_search_sees_repeats_as_noise_and_risky_ones_as_failed() -> None:
    class Seen:
        size = None

        def suggest(self, k: int, past_runs: Sequence[PastRun]) -> Values:
            self.k, self.runs = k, list(past_runs)
            return {"learning_rate": 0.05, "seed": 0}

    inner = Seen()
    search = SeededSearch(inner, space("random", "run_cap: 24", RANGE))
    search.suggest(4, [
        PastRun({"learning_rate": 0.01, "seed": 0}, 1.0),
        PastRun({"learning_rate": 0.02, "seed": 0}, 2.0),
        PastRun({"learning_rate": 0.01, "seed": 1}, 1.2),
        PastRun({"learning_rate": 0.02, "seed": 1}, 9.0, failed=True),
    ])  # fmt: skip
    assert inner.k == 2
    assert inner.runs == [
        PastRun({"learning_rate": 0.01, "seed": 0}, 1.0),
        PastRun({"learning_rate": 0.02, "seed": 0}, 2.0, failed=True),
        PastRun({"learning_rate": 0.01, "seed": 0}, 1.2),
        PastRun({"learning_rate": 0.02, "seed": 0}, 9.0, failed=True),
    ]


@pytest.mark.parametrize(
    ("more", "first", "notice"),
    [
        ("", 6, ""),
        ("run_cap: 8", 6, ""),
        ("run_cap: 7", 5, "with 7 runs, 5 of 6 configurations are tried before further seeds"),
        ("run_cap: 2", 1, "with 2 runs, 1 of 6 configurations"),
    ],
)
def test_a_run_cap_that_leaves_out_configurations(more: str, first: int, notice: str) -> None:
    chosen = choose_search(space(more=more), seed=0)
    assert isinstance(chosen.search, SeededSearch)
    assert chosen.search.tried_first(0) == first
    assert notice in chosen.used_up_before(chosen.search.run_cap)
    assert bool(notice) == bool(chosen.used_up_before(chosen.search.run_cap))


@pytest.mark.parametrize(
    ("parameters", "is_ours", "says"),
    [
        ("seed: {values: [1, 2]}", True, "seed already varies the seed"),
        ("arm: {values: [{seed: 1}, {seed: 2}]}", True, "arm already varies the seed"),
        ("lr: {values: [1, 2]}", False, "seed: {value: 0}"),
        ("net: {parameters: {Random_Seed: {value: a}}}", False, "net.Random_Seed, which is 'a'"),
        ("seed: {value: 1}, x: {parameters: {seed: {value: 1}}}", False, "seed and x.seed already"),
    ],
)
def test_seeds_that_cannot_be_varied(parameters: str, is_ours: bool, says: str) -> None:
    text = f"program: train.py\nmethod: grid\nparameters: {{{parameters}}}\n"
    with pytest.raises(SweepError, match=r"^s\.yaml: ") as error:
        SeededSpace(SearchSpace(parse_sweep(text, "s.yaml"), {}, is_ours=is_ours), 3)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_early_termination_is_refused() -> None:
    more = "run_cap: 9\nearly_terminate: {type: hyperband, min_iter: 1}"
    with pytest.raises(SweepError, match="early_terminate stops runs early; leave out one"):
        space("random", more, RANGE)


@pytest.mark.parametrize(
    ("parameters", "fixed", "is_ours", "name", "seeds"),
    [
        ("dropout: {values: [0, 0.1]}", {}, True, "seed", [0, 1, 2]),
        ("dropout: {values: [0, 0.1]}", {"seed": 5}, True, "seed", [5, 6, 7]),
        ("seed: {value: 3}, weight_decay: {values: [0, 1]}", {}, True, "seed", [3, 4, 5]),
        ("a: {parameters: {seed: {value: 7}}}", {}, False, "a.seed", [7, 8, 9]),
    ],
)
def test_seeds_count_up_from_the_sweeps_own(
    parameters: str, fixed: dict[str, int], is_ours: bool, name: str, seeds: list[int]
) -> None:
    text = f"program: train.py\nmethod: grid\nparameters: {{{parameters}}}\n"
    found = SeededSpace(SearchSpace(parse_sweep(text, "s.yaml"), fixed, is_ours=is_ours), 3)
    assert found.repeats_by == name
    search = choose_search(found, seed=0).search
    first = search.suggest(0, [])
    assert first is not None
    done = [PastRun(first, 1.0)]
    for _ in seeds[1:]:
        following = next_in_race(configurations_of(done, name), 3, 9)
        assert following is not None
        done.append(PastRun({**first, name: seeds[len(done)]}, 1.0))
    assert first[name] == seeds[0]
    settings = found.settings({**first, name: seeds[2]})
    assert settings["seed" if is_ours else name] == seeds[2]
    assert len(found.sweep.parameters) == len({*first})
