"""Plans of a tuning: shapes, lengths, and the division of the budget."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from functools import cache

import pytest

from fundamentallm.config.hyperparameters import HYPERPARAMETERS, Config
from fundamentallm.sweep.check.warnings import check_meaning
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.program.ownership import is_ours
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.tune.budget import NominalSpeed, multiplications, seconds_of_default_run
from fundamentallm.tune.phases import (
    SEARCH_SHARE,
    SHAPES_SHARE,
    Found,
    Planner,
    SearchPlan,
    ShapesPlan,
    TrainPlan,
    stored,
)
from fundamentallm.tune.plan import (
    DECAY_FRACTION,
    EXPECTED,
    TextFacts,
    dropout_for,
    for_length,
    parameters_of,
    weight_decay_for,
)
from fundamentallm.tune.sweep_files import SweepFiles


class TwoCores:
    """Speed of two cores of 2e10 multiplications a second; more runs than two share them."""

    setup_seconds = 0.5

    def best_workers(self, config: Config) -> int:
        return 2

    def step_seconds(self, config: Config, workers: int) -> float:
        return multiplications(config) / 2e10 / (1.6 if workers == 1 else 2 / workers)

    def scoring_seconds(self, config: Config, workers: int) -> float:
        return 0.5

    def fits(self, config: Config) -> bool:
        return True


class Small(TwoCores):
    """A machine on which only models up to width 64 fit."""

    def fits(self, config: Config) -> bool:
        return config.model_dim <= 64


MEGABYTE = TextFacts(characters=1_000_000, vocabulary=66)
FILES = SweepFiles("tune-x", None)


def planner(facts: TextFacts = MEGABYTE, speed: TwoCores | None = None) -> Planner:
    return Planner(facts, speed or TwoCores())


def test_more_time_buys_larger_models_and_a_lower_loss() -> None:
    found = [planner().candidates(EXPECTED, seconds)[0] for seconds in (60, 600, 6000)]
    sizes = [parameters_of(each.recipe, MEGABYTE) for each in found]
    assert sizes == sorted(set(sizes))
    assert found[0].loss > found[1].loss > found[2].loss


def test_limits_hold() -> None:
    limited = Planner(MEGABYTE, TwoCores(), max_parameters=150_000)
    sizes = [parameters_of(c.recipe, MEGABYTE) for c in limited.candidates(EXPECTED, 600)]
    assert sizes
    assert 100_000 < max(sizes) <= 150_000
    smallest = Planner(MEGABYTE, TwoCores(), max_parameters=20_000).candidates(EXPECTED, 600)
    assert {c.recipe.model_dim for c in smallest} == {16, 32}
    widths = {c.recipe.model_dim for c in planner(speed=Small()).candidates(EXPECTED, 6000)}
    assert max(widths) == 64
    assert Planner(MEGABYTE, TwoCores(), max_parameters=10).candidates(EXPECTED, 600) == []


@pytest.mark.parametrize("characters", [40, 300, 10_000, 1_000_000, 300_000_000])
def test_every_recipe_is_possible_on_its_text(characters: int) -> None:
    facts = TextFacts(characters, 30)
    for seconds in (1.0, 60.0, 3600.0):
        for each in planner(facts).candidates(EXPECTED, seconds):
            assert each.recipe.config.max_seq_len < characters  # Config checks the rest
            assert each.steps > 0


def test_phases_keep_to_their_shares() -> None:
    total = 1800.0
    found = planner().candidates(EXPECTED, 0.65 * total)
    shapes = planner().shapes(found, total)
    speed = TwoCores()
    seconds = [
        run.steps * speed.step_seconds(run.recipe.config, shapes.workers) + 1.0
        for run in shapes.runs
    ]
    rounds = math.ceil(len(seconds) / shapes.workers)
    assert len(seconds) > 1
    assert rounds * max(seconds) <= SHAPES_SHARE * total * 1.001
    assert rounds * min(seconds) > 0.9 * SHAPES_SHARE * total
    search = planner().search(found[0].recipe, total)
    assert search.configurations % 4 == 0
    assert search.lengths[1] == 4 * search.lengths[0]
    step = speed.step_seconds(search.center.config, 2)
    short, long = search.lengths
    one_after_the_other = math.ceil(search.configurations / 2) * short * step
    one_after_the_other += (
        math.ceil(search.configurations / 8) * (long - (1 - DECAY_FRACTION) * short) * step
    )
    assert search.seconds == pytest.approx(one_after_the_other)
    assert 0.8 * SEARCH_SHARE * total < search.seconds <= SEARCH_SHARE * total


def test_a_budget_of_a_minute_only_trains() -> None:
    found = planner().candidates(EXPECTED, 60.0)
    assert planner().shapes(found, 60.0).runs == ()
    assert planner().search(found[0].recipe, 20.0).lengths == ()
    plan = planner().training(
        Found(found[0].recipe, 0), EXPECTED, 50.0, is_time=True, budget="x", first_seed=0
    )
    assert 0.5 < plan.minutes * 60 / 50 <= 1
    assert plan.steps == 0


def test_plans_survive_their_storage() -> None:
    found = planner().candidates(EXPECTED, 1800.0)
    recipe = found[0].recipe
    plans = (
        planner().shapes(found, 1800.0),
        planner().search(recipe, 1800.0),
        planner().training(
            Found(recipe, 0), EXPECTED, 900.0, is_time=True, budget="--hours 1", first_seed=3
        ),
        Found(recipe, 5),
    )
    for plan in plans:
        assert type(plan).of(json.loads(json.dumps(stored(plan)))) == plan


def test_seeds_are_repeated_only_where_they_cost_little() -> None:
    short, long = (
        planner(facts).training(
            Found(planner(facts).candidates(EXPECTED, seconds)[0].recipe, 0),
            EXPECTED, seconds, is_time=True, budget="x", first_seed=7,
        )
        for facts, seconds in ((MEGABYTE, 300.0), (TextFacts(10_000, 60), 200_000.0))
    )  # fmt: skip
    assert short.seeds == (7,)
    assert long.seeds == (7, 8, 9)


def test_a_longer_run_is_regularized_more_and_has_a_lower_rate_than_those_of_the_search() -> None:
    center = for_length(planner().candidates(EXPECTED, 1800.0)[0].recipe, MEGABYTE, 1_000_000)
    found = Found(center, 1_000_000)
    plan = planner().training(found, EXPECTED, 90_000.0, is_time=False, budget="x", first_seed=0)
    assert plan.expected_tokens > 8_000_000
    assert plan.recipe.weight_decay > center.weight_decay
    assert plan.recipe.learning_rate < center.learning_rate


def test_another_round_continues_with_the_same_recipe() -> None:
    long = planner(TextFacts(10_000_000, 66))  # more training pays
    found = Found(long.candidates(EXPECTED, 600.0)[0].recipe, 0)
    first, second = (
        long.training(
            found, EXPECTED, 600.0, is_time=False, budget="x", first_seed=0, before=before
        )
        for before in (
            None,
            long.training(found, EXPECTED, 600.0, is_time=False, budget="x", first_seed=0),
        )
    )
    assert second.recipe == first.recipe
    assert second.eval_every == first.eval_every  # or no run could continue
    assert second.steps > 1.4 * first.steps  # half of the first is continued
    timed = long.training(found, EXPECTED, 600.0, is_time=True, budget="x", first_seed=0)
    longer = long.training(
        found, EXPECTED, 600.0, is_time=True, budget="x", first_seed=0, before=timed
    )
    assert longer.minutes > 1.9 * timed.minutes  # a run counts the time of what it continues


def test_another_round_is_never_shorter_than_the_one_that_it_continues() -> None:
    small = planner(TextFacts(20_000, 66))  # soon memorized
    found = Found(small.candidates(EXPECTED, 600.0)[0].recipe, 0)
    before = small.training(found, EXPECTED, 600.0, is_time=False, budget="x", first_seed=0)
    longer = small.training(
        found, EXPECTED, 6000.0, is_time=False, budget="y", first_seed=0, before=before
    )
    assert longer.steps >= before.steps


def test_another_round_adds_only_seeds_that_it_can_train_as_long() -> None:
    nominal = NominalSpeed(TwoCores())
    small = Planner(TextFacts(20_000, 66), nominal)  # soon memorized, so that seeds cost little
    found = Found(small.candidates(EXPECTED, 10.0)[0].recipe, 0)
    first = small.training(found, EXPECTED, 10.0, is_time=False, budget="x", first_seed=0)
    assert len(first.seeds) == 1
    for budget, seeds in ((15.0, 1), (20.0, 2), (25.0, 2), (30.0, 3)):
        more = small.training(
            found, EXPECTED, budget, is_time=False, budget="y", first_seed=0, before=first
        )
        assert len(more.seeds) == seeds
        step = nominal.step_seconds(more.recipe.config, 1)
        assert seeds == 1 or seeds * more.steps * step <= 1.01 * budget


def test_dropout_and_weight_decay_grow_with_repetitions_and_size() -> None:
    assert [dropout_for(each) for each in (0.1, 30, 120, 1e9)] == [0.0, 0.0, 0.1, 0.3]
    assert [weight_decay_for(each) for each in (0.1, 5, 12, 1e9)] == [0.1, 0.2, 0.48, 0.5]


def test_runs_share_the_nominal_machine() -> None:
    for workers in (1, 2, 8):
        speed = NominalSpeed(TwoCores())
        config = Config()
        assert speed.step_seconds(config, workers) == workers * speed.step_seconds(config, 1)
    steps = -(-1_000_000 // Config().tokens_per_step) * 20
    assert seconds_of_default_run(1_000_000) == pytest.approx(
        steps * NominalSpeed(TwoCores()).step_seconds(Config(), 1)
    )


@cache
def files() -> dict[str, str]:
    """Return every kind of file of a tuning."""
    found = planner().candidates(EXPECTED, 1500.0)
    recipe = found[0].recipe
    shapes, search = planner().shapes(found, 3600.0), planner().search(recipe, 3600.0)
    assert isinstance(shapes, ShapesPlan)
    assert isinstance(search, SearchPlan)
    texts = {"shapes": FILES.shapes(shapes, epochs=20)}
    for repeats in (0.5, 5.0):
        texts[f"search {repeats}"] = FILES.search(search, repeats=repeats, epochs=20)
    for name, is_time in (("minutes", True), ("steps", False)):
        plan = planner().training(
            Found(recipe, 0), EXPECTED, 900.0, is_time=is_time, budget="x", first_seed=0
        )
        assert isinstance(plan, TrainPlan)
        texts[name] = FILES.train("train", plan, epochs=20)
    runs = [{**recipe.settings, "max_steps": steps, "data": "built-in"} for steps in (10, 20)]
    texts["runs"] = FILES.runs("search", runs)
    texts["one run"] = FILES.runs("train", runs[:1])
    return texts


@pytest.mark.parametrize("name", files())
def test_check_passes_every_file(name: str) -> None:
    sweep = parse_sweep(files()[name], "x")
    space = SearchSpace(sweep, {})
    diagnostics = sweep.diagnostics
    check_meaning(space, diagnostics, MEGABYTE.characters)
    assert not diagnostics.errors
    assert is_ours(sweep)  # without a train.py beside it
    warnings = [each.text("x") for each in diagnostics.warnings]
    # By itself this file is a search over lengths too, as its heading says.
    assert warnings == [] or (name.startswith("search") and "max_steps" in warnings[0])
    assert space.is_possible(space.defaults())
    used = {*HYPERPARAMETERS, "shape", "run", "data"}
    assert {parameter.name for parameter in sweep.parameters} <= used


def test_the_file_of_the_runs_repeats_them_exactly() -> None:
    recipe = planner().candidates(EXPECTED, 3600.0)[0].recipe
    runs = [{**asdict(recipe), "max_steps": steps, "dropout": 0.1 * steps} for steps in (1, 2)]
    sweep = parse_sweep(FILES.runs("search", runs), "x")
    space = SearchSpace(sweep, {})
    options = next(p for p in sweep.parameters if p.name == "run").distribution.grid() or ()
    constants = space.defaults()
    found = [space.settings({**constants, "run": option}) for option in options]
    assert [{name: each[name] for name in runs[0]} for each in found] == runs
