"""The `scheduler` of a sweep file: what W&B refuses, by line, and what it means here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import SweepFile, examine_mapping, examine_sweep

OURS = """\
program: t.py
method: custom
run_cap: 5
metric: {name: loss}
scheduler:
  engine: optuna
  source: search.py
  optimizer: bayes
  search_space: configuration
parameters:
  x: {min: 1, max: 9}
"""


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(text: str) -> SweepFile:
    Path("s.yaml").write_text(text)
    return examine_sweep("s.yaml")


def found(text: str) -> list[str]:
    """Return the diagnostics of a file, as `LEVEL FILE:LINE: KEY: MESSAGE`."""
    diagnostics = read(text).diagnostics
    return [f"{each.level} {each.text('s.yaml')}" for each in diagnostics.sorted()]


@pytest.mark.parametrize("method", ["bayes", "random", "grid"])
def test_our_search_is_its_method_here(method: str) -> None:
    text = OURS.replace("bayes", method)
    sweep = read(text)
    assert (sweep.method, sweep.content["method"]) == (method, "custom")
    assert found(text) == []
    sweep.diagnostics.raise_ambiguous()


def test_the_search_of_someone_else_is_refused_here() -> None:
    text = OURS.replace("search_space: configuration", "search_space: suggest")
    assert found(text) == [
        "error s.yaml:2: method: only wandb sweep-scheduler runs custom; give grid, random or "
        "bayes",
        "warning s.yaml:5: scheduler: is for wandb sweep-scheduler, which searches for a sweep on "
        "W&B; it has no effect on your own machines",
    ]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "run_cap: 5",
            "early_terminate: {type: hyperband, min_iter: 3}",
            "s.yaml:3: early_terminate: W&B refuses it together with scheduler; remove one of them",
        ),
        (
            "method: custom",
            "method: bayes",
            "s.yaml:2: method: W&B takes only custom together with",
        ),
        (
            "engine: optuna",
            "engine: wandb",
            "s.yaml:2: method: W&B takes only grid or random or bayes together with",
        ),
        (
            "engine: optuna",
            "engine: hyperopt",
            "s.yaml:6: scheduler.engine: got hyperopt; give wandb",
        ),
        (
            "  engine: optuna\n",
            "",
            "s.yaml:5: scheduler.engine: is missing; give wandb, optuna, ax",
        ),
        ("  source: search.py\n", "", "s.yaml:7: scheduler.optimizer: needs source, the Python"),
        ("optimizer: bayes", "optimiser: bayes", "did you mean optimizer?"),
        (
            "source: search.py",
            "source: [a.py]",
            "s.yaml:7: scheduler.source: got ['a.py']; give",
        ),
        (
            "metric: {name: loss}",
            "name: s",
            "s.yaml:5: scheduler: wandb sweep-scheduler needs a met",
        ),
        (
            "run_cap: 5",
            "controller: {type: local}",
            "s.yaml:3: controller: W&B refuses type local together with scheduler; remove it",
        ),
    ],
)
def test_what_w_and_b_refuses_is_an_error_with_its_line(old: str, new: str, line: str) -> None:
    assert old in OURS
    errors = [each for each in found(OURS.replace(old, new)) if each.startswith("error")]
    assert any(line in each for each in errors), errors


def test_a_scheduler_that_is_no_mapping_is_refused() -> None:
    content = yaml.safe_load(OURS) | {"scheduler": "optuna"}
    assert "got 'optuna'; give a mapping with an engine" in "\n".join(
        found(yaml.safe_dump(content))
    )


def test_a_sweep_of_launch_has_another_scheduler() -> None:
    content = yaml.safe_load(OURS) | {"job": "a/b/c:latest", "method": "bayes"}
    content["scheduler"] = {"num_workers": 4, "settings": {}}
    assert not [each for each in found(yaml.safe_dump(content)) if each.startswith("error")]


PLAIN = st.none() | st.booleans() | st.integers() | st.text("abc") | st.lists(st.text("abc"))
NAMES = ("engine", "source", "optimizer", "search_space", "other")
FIELDS = st.sampled_from(["optuna", "wandb", "bayes", "configuration"]) | PLAIN


@given(PLAIN | st.dictionaries(st.sampled_from(NAMES), FIELDS), st.sampled_from(["custom", 1]))
def test_any_content_is_read(content: Any, method: Any) -> None:
    fields = {"scheduler": content, "method": method, "parameters": {"x": {"values": [1, 2]}}}
    sweep = examine_mapping(fields, "s")
    if sweep.method != "bayes":
        with pytest.raises(SweepError):
            sweep.diagnostics.raise_ambiguous()
