"""Search space of a sweep: which values are possible, and the nearest to the defaults."""

from __future__ import annotations

from conftest import ROOT

from fundamentallm.sweep.file.sweep_file import parse_sweep, read_sweep
from fundamentallm.sweep.search.space import SearchSpace, check_space


def test_a_distribution_beyond_all_numbers_is_a_mistake() -> None:
    entry = "{distribution: log_normal, mu: 1000, sigma: 1}"
    sweep = parse_sweep(
        "program: train.py\nmethod: random\nmetric: {name: val_loss}\n"
        f"parameters: {{learning_rate: {entry}}}\n",
        "t",
    )
    assert check_space(sweep, {}).errors
    assert SearchSpace(sweep, {}).searched[0].distribution.quantile(0.5) == float("inf")


def test_every_bundled_bayes_has_its_defaults_among_the_possible() -> None:
    for file in (ROOT / "sweeps").glob("*.yaml"):
        space = SearchSpace(read_sweep(file), {})
        assert space.is_possible(space.defaults())


def test_the_values_of_another_program_are_not_judged() -> None:
    sweep = parse_sweep(
        "program: theirs.py\nmethod: random\nparameters:\n"
        "  num_heads: {values: [3, auto]}\n  optim:\n    parameters:\n"
        "      learning_rate: {min: 0.5, max: 70.0}\n",
        "t",
    )
    space = SearchSpace(sweep, {}, is_ours=False)
    values = {"num_heads": "auto", "optim.learning_rate": 70.0}
    assert space.is_possible(values)
    assert space.settings(values) == values
    assert space.together() == []
    assert space.defaults() == {"num_heads": 3, "optim.learning_rate": 35.25}
