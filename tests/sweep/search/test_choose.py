"""Choice of the search for a sweep file."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import ROOT

from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.choose import choose_search
from fundamentallm.sweep.search.space import SearchSpace


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
        space = SearchSpace(parse_sweep(text.format(method), "s"), {})
        with pytest.raises(
            SweepError, match=r"no configuration|no values of model_dim and num_heads"
        ):
            choose_search(space, seed=0).search.suggest(0, [])
    huge = "program: train.py\nmethod: grid\nparameters:\n"
    huge += "  seed: {min: 0, max: 1000000}\n  max_steps: {min: 1, max: 1000000}\n"
    with pytest.raises(SweepError, match="configurations"):
        choose_search(SearchSpace(parse_sweep(huge, "s"), {}), seed=0)


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_no_combination_is_refused_before_anything_begins(method: str) -> None:
    text = f"program: train.py\nmethod: {method}\nrun_cap: 3\nmetric: {{name: val_loss}}\n"
    text += "parameters:\n  num_heads: {values: [8, 16]}\n  dropout: {min: 0.0, max: 0.5}\n"
    with pytest.raises(SweepError, match="no values of num_heads in the sweep"):
        choose_search(SearchSpace(parse_sweep(text, "s"), {"model_dim": 100}), seed=0)
