"""Warnings about a sweep that is likely not meant."""

from __future__ import annotations

import pytest

from fundamentallm.sweep.check.warnings import evaluations
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.space import SearchSpace


@pytest.mark.parametrize(
    ("parameters", "most"),
    [
        ("epochs: {value: 5}", 5),
        ("epochs: {value: 5}, max_steps: {value: 40}", 2),  # of 25 steps an epoch
        ("epochs: {value: 5}, eval_every: {value: 100}", 2),
        ("epochs: {values: [5, 50]}, eval_every: {value: 100}", 13),
        ("epochs: {value: 5}, eval_every: {value: 10}, batch_size: {values: [32, 64]}", 13),
    ],
)
def test_evaluations_are_counted_on_the_text(parameters: str, most: int) -> None:
    text = f"program: train.py\nmethod: grid\nparameters: {{{parameters}}}\n"
    fixed = {"max_seq_len": 64, "batch_size": 32}
    if "batch_size" in parameters:
        del fixed["batch_size"]
    points = SearchSpace(parse_sweep(text, "s.yaml"), fixed)
    characters = round(25 * 64 * 32 / 0.9)
    found = evaluations(points, characters)
    assert found is not None
    assert found[1] == most
