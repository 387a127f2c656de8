"""Values that are mappings: one choice each, which sets several hyperparameters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from conftest import Run
from tiny_sweep import FLAGS, summaries, trials

from fundamentallm.sweep.check.cost import corners
from fundamentallm.sweep.check.warnings import check_meaning, evaluations
from fundamentallm.sweep.file.diagnostics import Diagnostics
from fundamentallm.sweep.file.parameters import read_parameters
from fundamentallm.sweep.file.sweep_file import Metric, SweepFile, parse_sweep
from fundamentallm.sweep.file.yaml_writer import Commented, sweep_text
from fundamentallm.sweep.refine import finalists, refined_sweep
from fundamentallm.sweep.search.base import PastRun, key_of
from fundamentallm.sweep.search.choose import choose_search
from fundamentallm.sweep.search.space import SearchSpace, check_space
from fundamentallm.sweep.store.optuna_trials import to_optuna
from fundamentallm.sweep.store.records import Run as SweepRun
from fundamentallm.sweep.store.records import Trial
from fundamentallm.sweep.store.stored_values import StoredError, ValueCheck

SWEEP = """\
program: train.py
method: {method}
run_cap: {cap}
metric: {{name: val_loss}}
early_terminate: {{type: hyperband, min_iter: 1}}
parameters:
  choice:
    values:
      - {{learning_rate: 0.01, warmup-steps: 2}}
      - {{learning_rate: 0.003, beta2: 0.9}}
  seed: {{values: [0, 1]}}
  length: {{value: {{max_steps: 12, eval_every: 4}}}}
"""
FAST, SLOW = {"learning_rate": 0.01, "warmup-steps": 2}, {"learning_rate": 0.003, "beta2": 0.9}
LENGTH = {"max_steps": 12, "eval_every": 4}


def sweep_of(*parameters: str, method: str = "grid") -> SweepFile:
    text = f"program: train.py\nmethod: {method}\nrun_cap: 9\nmetric: {{name: val_loss}}\n"
    return parse_sweep(text + "parameters:\n" + "".join(f"  {p}\n" for p in parameters), "s.yaml")


def test_members_are_the_settings_of_a_run() -> None:
    sweep = parse_sweep(SWEEP.format(method="grid", cap=4), "s.yaml")
    space = SearchSpace(sweep, {"epochs": 3})
    assert check_space(sweep, {"epochs": 3}).errors == []
    assert space.are_known
    values = {"choice": FAST, "seed": 1, "length": LENGTH}
    assert space.settings(values) == {
        "epochs": 3, "learning_rate": 0.01, "warmup_steps": 2, "seed": 1, "max_steps": 12,
        "eval_every": 4,
    }  # fmt: skip
    assert space.is_possible(values)
    assert not space.is_possible({**values, "choice": {"learning_rate": -1}})
    theirs = SearchSpace(sweep, {}, is_ours=False)
    assert theirs.settings(values) == values
    assert evaluations(space) == (3, 3)


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        (["c: {values: [{lr: 0.1}, {}]}"],
         "s.yaml:6: parameters.c.values[0].lr: not a hyperparameter; did you mean learning_rate?"),
        (["c: {values: [{seed: 1}, 5]}"],
         "s.yaml:6: parameters.c.values[1]: got 5; give a mapping, as the other values are"),
        (["c: {values: [{seed: 1}, {inner: {dropout: 2}}]}"],
         "s.yaml:6: parameters.c.values[1].inner.dropout: --dropout: got '2'"),
        (["c: {values: [{batch-size: 1, batch_size: 2}]}"],
         "s.yaml:6: parameters.c.values[0]: batch_size is given twice in this mapping"),
        (["c: {value: {data: x.txt}}"],
         "s.yaml:6: parameters.c.value.data: a text cannot be in a mapping"),
        (["a: {values: [{seed: 1}, {dropout: 0}]}", "dropout: {value: 0.1}"],
         "s.yaml:7: parameters.dropout: dropout is given twice, also as a; keep one"),
        (["a: {values: [{seed: 1}]}", "b: {values: [{dropout: 0}, {seed: 2}]}"],
         "s.yaml:7: parameters.b.values[1].seed: seed is given twice, also as a; keep one"),
        (["a: {values: [{epochs: 1}, {dropout: 0}]}"],
         "s.yaml:6: parameters.a.values[0].epochs: epochs is also fixed to 3; remove one of them"),
    ],
)  # fmt: skip
def test_mistakes_have_their_line(parameters: list[str], error: str) -> None:
    sweep = sweep_of(*parameters)
    (found,) = check_space(sweep, {"epochs": 3}).errors
    assert found.text("s.yaml").startswith(error)


def test_documented_ranges_hold_for_members() -> None:
    diagnostics = Diagnostics("s.yaml")
    space = SearchSpace(sweep_of("a: {values: [{learning_rate: 0.5}, {dropout: 0.1}]}"), {})
    check_meaning(space, diagnostics)
    (found,) = diagnostics.warnings
    assert found.key == "parameters.a.values[0].learning_rate"


def test_what_excludes_each_other_is_one_choice() -> None:
    """Widths and rates in one mapping, heads and rate steps outside it: 3 divides 96 only."""
    space = SearchSpace(
        sweep_of(
            "a: {values: [{model_dim: 64, lr_schedule: step}, {model_dim: 96}]}",
            "num_heads: {values: [2, 3]}",
            "lr_steps: {values: ['', '10']}",
            method="bayes",
        ),
        {},
    )
    ((names, possible),) = space.together()
    assert names == ("a", "num_heads", "lr_steps")
    wide, narrow = {"model_dim": 96}, {"model_dim": 64, "lr_schedule": "step"}
    for combination in ((wide, 2), (wide, 3), (narrow, 2)):
        assert any(each[:2] == combination for each in possible or ())
    assert not any(each[:2] == (narrow, 3) for each in possible or ())
    search = choose_search(space, seed=0).search
    known: list[PastRun] = []
    while (values := search.suggest(len(known), known)) is not None:
        assert space.is_possible(values)
        known.append(PastRun(values, float(len(known) % 3)))
    assert len({key_of(run.values) for run in known}) == len(known) == len(possible or ())


def test_costs_are_those_of_whole_choices() -> None:
    parameters = [
        "a: {values: [{model_dim: 96, num_layers: 2}, {model_dim: 64}, {num_layers: 8}, {}]}",
        "num_heads: {values: [3, 4]}",
    ]
    found = corners(SearchSpace(sweep_of(*parameters), {}))
    assert [(each.get("model_dim"), each.get("num_layers")) for each in found] == [
        (96, 2), (None, 8),
    ]  # fmt: skip


def test_stored_values_are_checked_and_shown_to_optuna() -> None:
    sweep = sweep_of(
        "a: {values: [{x: 1, y: [1, 2]}, {x: 2}]}", "b: {values: [[64, 64], [128], null]}"
    )
    check = ValueCheck(sweep.parameters)
    stored = json.loads(json.dumps({"a": {"y": [1, 2], "x": 1}, "b": [128]}))
    check(stored)
    for wrong in ({"a": {"x": 1}, "b": [128]}, {"a": {"x": 2}, "b": [64]}):
        with pytest.raises(StoredError):
            check(wrong)
    params, distributions = to_optuna(stored, sweep.parameters)
    assert params == {"a": '{"x": 1, "y": [1, 2]}', "b": "[128]"}
    assert all(distributions[name].to_internal_repr(params[name]) >= 0 for name in params)


def test_what_is_written_reads_the_same() -> None:
    values = [{"lr": 1e-05, "name": "yes", "sizes": [1, [2, 3]]}, {"on": None, "a b": True}]
    content = {"program": "x.py", "method": "grid", "parameters": {"a": {"values": values}}}
    assert parse_sweep(sweep_text(content, ""), "s").content == content
    content["parameters"]["a"]["values"] = Commented(values, "why")
    assert yaml.safe_load(sweep_text(content, ""))["parameters"]["a"]["values"] == values
    (parameter,) = read_parameters({"a": {"values": [{"b": 1}, 2]}}, Diagnostics("x"))
    assert parameter.has_mappings


def test_refine_trains_the_members() -> None:
    sweep = parse_sweep(SWEEP.format(method="grid", cap=4), "s.yaml")
    values = [{"choice": c, "seed": s, "length": LENGTH} for c in (FAST, SLOW) for s in (0, 1)]
    runs = [
        SweepRun(k, (Trial(k, k, each, "done", "", score=1.0 + k),))  # pyright: ignore
        for k, each in enumerate(values)
    ]
    found = finalists(runs, SearchSpace(sweep, {}), Metric("val_loss"))
    assert [each.settings["warmup_steps"] for each in found] == [2, 0]
    assert [each.settings["beta2"] for each in found] == [0.99, 0.9]  # 0.99 is the default
    text = refined_sweep("x", [each.settings for each in found], Metric("val_loss"), "s")
    assert yaml.safe_load(text)["parameters"]["beta2"] == {"values": [0.99, 0.9]}


@pytest.mark.parametrize("method", ["grid", "random", "bayes"])
def test_a_sweep_runs_and_resumes(run: Run, tmp_path: Path, text_file: Path, method: str) -> None:
    file = tmp_path / "tiny.yaml"
    flags = (text_file.name, "--workers", 1, "--", *FLAGS)
    said = ""
    for cap in (2, 4):
        file.write_text(SWEEP.format(method=method, cap=cap))
        done = run("sweep", file, *flags)
        assert done.returncode == 0, done.stderr
        said += done.stdout
    assert "choice (learning_rate=0.01, warmup-steps=2), seed 0" in said
    folder = tmp_path / "runs/tiny"
    assert len(summaries(folder)) == 4
    pairs = set()
    for name in summaries(folder):
        config = yaml.safe_load((folder / name / "config.yaml").read_text())
        assert (config["max_steps"], config["eval_every"]) == (12, 4)
        rate, warmup, beta2 = (config[n] for n in ("learning_rate", "warmup_steps", "beta2"))
        assert (rate, warmup, beta2) in ((0.01, 2, 0.99), (0.003, 0, 0.9))
        pairs.add((rate, config["seed"]))
    assert len(pairs) == 4
    assert {trial.params["choice"] for trial in trials(folder)} == {
        json.dumps(FAST, sort_keys=True), json.dumps(SLOW, sort_keys=True),
    }  # fmt: skip
    file.write_text(SWEEP.format(method=method, cap=4).replace("beta2: 0.9", "beta2: 0.95"))
    refused = run("sweep", file, *flags)
    assert refused.returncode == 2
    assert "parameters.choice.values was" in refused.stderr
