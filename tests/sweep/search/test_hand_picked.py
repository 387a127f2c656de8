"""Configurations that a person picks: every value is one of the sweep, or the message helps."""

from __future__ import annotations

from typing import Any

import pytest

from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.hand_picked import read_configuration
from fundamentallm.sweep.search.seeds import SeededSpace
from fundamentallm.sweep.search.space import SearchSpace

TEXT = """program: mine.py
method: {method}
parameters:
  rate: {{distribution: log_uniform_values, min: 0.0001, max: 0.1}}
  size: {{min: 1, max: 9}}
  batch-size: {{distribution: q_uniform, min: 8, max: 64, q: 8}}
  optimizer:
    parameters:
      kind: {{values: [adam, sgd, 3, true, null, [1, 2]]}}
  free: {{distribution: normal, mu: 0, sigma: 1}}
  fixed: {{value: 7}}
"""
GIVEN: dict[str, Any] = {
    "rate": "1e-3", "size": "4", "batch_size": 16, "optimizer.kind": "sgd", "free": -30,
}  # fmt: skip
GRID = """program: train.py
method: grid
parameters:
  num_heads: {values: [2, 3]}
  model_dim: {values: [16, 32]}
  dropout: {distribution: q_uniform, min: 0.05, max: 0.35, q: 0.1}
"""


def space(text: str = TEXT.format(method="random"), *, is_ours: bool = False) -> SearchSpace:
    return SearchSpace(parse_sweep(text, "s.yaml"), {}, is_ours=is_ours)


def test_texts_become_values_of_the_parameters() -> None:
    values = read_configuration(space(), GIVEN)
    assert values == {
        "rate": 0.001, "size": 4, "batch-size": 16, "optimizer.kind": "sgd", "free": -30.0,
        "fixed": 7,
    }  # fmt: skip
    assert list(values) == [parameter.name for parameter in space().sweep.parameters]


@pytest.mark.parametrize(
    ("given", "value"),
    [("3", 3), (3.0, 3), ("true", True), ("null", None), (None, None), ("[1, 2]", [1, 2])],
)
def test_choices_are_found_whatever_their_type(given: Any, value: Any) -> None:
    found = read_configuration(space(), {**GIVEN, "optimizer.kind": given})["optimizer.kind"]
    assert found == value
    assert type(found) is type(value)


def test_the_last_word_of_a_nested_name_is_enough() -> None:
    given = {**GIVEN, "kind": "adam"}
    del given["optimizer.kind"]
    assert read_configuration(space(), given)["optimizer.kind"] == "adam"
    with pytest.raises(SweepError, match=r"optimizer\.kind is given twice"):
        read_configuration(space(), {**GIVEN, "kind": "adam"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0.2}, "rate: got 0.2; give a number from 0.0001 to 0.1"),
        ({"rate": "fast"}, "rate: got fast; give a number"),
        ({"rate": "nan"}, "rate: got nan"),
        ({"rate": True}, "rate: got True"),
        ({"size": 2.5}, "size: got 2.5; give a whole number from 1 to 9"),
        ({"batch_size": 17}, "give a multiple of 8 from 8 to 64"),
        ({"kind": "adan"}, "optimizer.kind is given twice"),
        ({"optimizer.kind": "adan"}, "got adan; give adam, sgd, 3, True, None or [1, 2]"),
        ({"fixed": 8}, "fixed: got 8; give 7"),
        ({"bath_size": 8}, "the sweep has no parameter bath_size; did you mean batch-size?"),
    ],
)
def test_what_is_no_value_of_the_sweep_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SweepError) as refused:
        read_configuration(space(), {**GIVEN, **change})
    assert message in str(refused.value)


def test_all_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(SweepError) as refused:
        read_configuration(space(), {"rate": 1, "size": 3, "free": 0})
    assert str(refused.value) == (
        "rate: got 1; give a number from 0.0001 to 0.1; give a value also for batch-size (a "
        "multiple of 8 from 8 to 64), optimizer.kind (adam, sgd, 3, True, None or [1, 2])"
    )


def test_a_grid_takes_only_its_points_that_can_exist() -> None:
    ours = space(GRID, is_ours=True)
    given = {"num_heads": 2, "model_dim": 16, "dropout": 0.15}
    assert read_configuration(ours, given)["dropout"] == pytest.approx(0.15)
    with pytest.raises(SweepError, match=r"dropout: got 0\.1"):
        read_configuration(ours, {**given, "dropout": 0.1})
    with pytest.raises(SweepError, match=r"impossible together: --num-heads 3"):
        read_configuration(ours, {**given, "num_heads": 3})


def test_a_seed_that_the_sweep_repeats_need_not_be_given() -> None:
    text = "program: train.py\nmethod: grid\nparameters: {dropout: {values: [0, 0.1]}}\n"
    seeded = SeededSpace(SearchSpace(parse_sweep(text, "s.yaml"), {"seed": 5}), 3)
    assert read_configuration(seeded, {"dropout": 0.1}) == {"dropout": 0.1, "seed": 5}
    assert read_configuration(seeded, {"dropout": 0.1, "seed": "7"})["seed"] == 7
    with pytest.raises(SweepError, match="seed: got 8; give a whole number from 5 to 7"):
        read_configuration(seeded, {"dropout": 0.1, "seed": 8})
