"""A sweep file means here what it means to W&B, and every mistake in it is told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from fundamentallm.sweep.findings import SweepError
from fundamentallm.sweep.spec import Sweep, parse_sweep, read_sweep

HEAD = "program: train.py\nmethod: random\nrun_cap: 5\nmetric: {name: val_loss}\nparameters:\n"


def sweep(parameters: str, head: str = HEAD) -> Sweep:
    return parse_sweep(head + parameters, "s.yaml")


def mistakes(text: str) -> list[str]:
    with pytest.raises(SweepError) as error:
        parse_sweep(text, "s.yaml")
    return str(error.value).split("\n")


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ("{value: 3}", "constant"),
        ("{values: [1, a, true, null, [1]]}", "categorical"),
        ("{values: [1, 2], probabilities: [0.25, 0.75]}", "categorical_w_probabilities"),
        ("{min: 1, max: 9}", "int_uniform"),
        ("{min: 1.0, max: 9}", "uniform"),
        ("{min: 0.1, max: 0.9}", "uniform"),
        ("{distribution: uniform, min: 1, max: 9}", "uniform"),
        ("{distribution: q_uniform, min: 1, max: 9, q: 2}", "q_uniform"),
        ("{distribution: log_uniform, min: -9, max: -2}", "log_uniform"),
        ("{distribution: log_uniform_values, min: 1.0e-4, max: 0.1}", "log_uniform_values"),
        ("{distribution: q_log_uniform, min: 0, max: 3}", "q_log_uniform"),
        ("{distribution: q_log_uniform_values, min: 1, max: 9}", "q_log_uniform_values"),
        ("{distribution: inv_log_uniform, min: 1, max: 2}", "inv_log_uniform"),
        ("{distribution: inv_log_uniform_values, min: 1, max: 2}", "inv_log_uniform_values"),
        ("{distribution: normal}", "normal"),
        ("{distribution: q_normal, mu: 3, sigma: 2, q: 0.5}", "q_normal"),
        ("{distribution: log_normal, sigma: 0}", "log_normal"),
        ("{distribution: q_log_normal}", "q_log_normal"),
        ("{distribution: beta, a: 2}", "beta"),
        ("{distribution: q_beta, q: 0.1}", "q_beta"),
    ],
)
def test_every_distribution_is_known_and_inferred(entry: str, kind: str) -> None:
    (parameter,) = sweep(f"  x: {entry}\n").parameters
    assert parameter.distribution.kind == kind
    assert parameter.is_constant == (kind == "constant")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{min: 1}", "x: got min; give value, values"),
        ("{}", "x: got nothing"),
        ("3", "x: got 3; give a mapping"),
        ("{values: []}", "x.values: got []"),
        ("{values: 3}", "x.values: got 3"),
        ("{min: 9, max: 1}", "x.min: 9 is not less than max, 1"),
        ("{min: a, max: 1}", "x.min: got 'a'; give a number"),
        ("{min: .nan, max: 1.0}", "x.min: got nan"),
        ("{min: true, max: 3}", "x.min: got True"),
        ("{min: 1, max: 3, step: 1}", "x.step: int_uniform takes min, max only"),
        ("{distribution: lognormal}", "W&B has no distribution lognormal; did you mean log_normal"),
        ("{distribution: uniform, min: 1}", "x: uniform needs max"),
        ("{distribution: int_uniform, min: 1.0, max: 3}", "x.min: got 1.0; give a whole number"),
        ("{distribution: log_uniform_values, min: 0, max: 1}", "a logarithm needs"),
        ("{distribution: log_uniform, min: 1, max: 1000}", "too large"),
        ("{distribution: q_uniform, min: 1, max: 2, q: 0}", "x.q: got 0; give a number above 0"),
        ("{distribution: normal, sigma: -1}", "x.sigma: got -1"),
        ("{distribution: beta, b: 0}", "x.b: got 0"),
        ("{values: [1, 2], probabilities: [0.5, 0.4]}", "add up to 0.9"),
        ("{values: [1, 2], probabilities: [1]}", "one number of 0 or more for each of the 2"),
        ("{values: [1], probabilities: [-1]}", "one number of 0 or more"),
        ("{parameters: {}}", "x.parameters: give at least one"),
        ("{parameters: {a: {value: 1}}, value: 2}", "x.value: cannot stand beside"),
    ],
)
def test_what_wandb_refuses_is_refused(entry: str, message: str) -> None:
    (line,) = mistakes(HEAD + f"  x: {entry}\n")
    assert line.startswith("s.yaml:6: parameters.x")
    assert message in line


def test_all_mistakes_are_told_at_once_in_order() -> None:
    text = (
        "methd: grid\nrun_cap: 0\nmetric: {goal: minimize}\n"
        "early_terminate: {type: hyperband, eta: 1}\nparameters:\n  9x: {value: 1}\n"
        "  y: {min: 2, max: 1}\n  y: {value: 1}\n"
    )
    lines = mistakes(text)
    assert [line.split(": ")[0] + " " + line.split(": ")[1] for line in lines] == [
        "s.yaml method is missing; give grid, random or bayes",
        "s.yaml program",
        "s.yaml:1 methd",
        "s.yaml:2 run_cap",
        "s.yaml:3 metric.name",
        "s.yaml:4 early_terminate.eta",
        "s.yaml:6 parameters.9x",
        "s.yaml:7 parameters.y.min",
        "s.yaml:8 parameters.y",
    ]
    assert "did you mean method?" in lines[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("method: custom", "W&B Launch alone"),
        ("method: baye", "did you mean bayes?"),
        ("early_terminate: {type: median}", "W&B has hyperband alone"),
        ("early_terminate: {type: hyperband}", "give min_iter, or max_iter together with s"),
        ("early_terminate: {type: hyperband, max_iter: 2, s: 1}", "there is no band"),
        ("early_terminate: {type: hyperband, min_iter: 1.5}", "got 1.5; give a whole number"),
        ("early_terminate: {type: hyperband, min_iter: 1, strict: 1}", "give true or false"),
        ("command: python", "give a list of words"),
        ("metrics: []", "method custom alone"),
        ("name: 3", "got 3; give text"),
        ("run_cap: 2.5", "give a whole number"),
        ("metric: val_loss", "give a mapping with a name"),
        ("metric: {name: a, target: best}", "give a number"),
    ],
)
def test_mistakes_outside_of_parameters(change: str, message: str) -> None:
    content: dict[str, Any] = yaml.safe_load(HEAD + "  x: {value: 1}\n")
    content |= yaml.safe_load(change)
    assert message in "\n".join(mistakes(yaml.safe_dump(content)))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("x: {distribution: null, min: 0.0, max: 0.3}", "no distribution None"),
        ("x: {distribution: '', min: 0.0, max: 0.3}", "no distribution "),
    ],
)
def test_an_empty_distribution_is_refused_as_by_w_and_b(entry: str, message: str) -> None:
    assert message in "\n".join(mistakes(HEAD + f"  {entry}\n"))


def test_bayes_without_a_range_is_refused_as_by_w_and_b() -> None:
    head = HEAD.replace("random", "bayes")
    (line,) = mistakes(head + "  x: {value: 1}\n")
    assert "bayes has nothing to search" in line
    assert sweep("  x: {min: 1, max: 2}\n", head).parameters


def test_a_whole_number_may_be_written_as_a_fraction() -> None:
    bands = "early_terminate: {type: hyperband, min_iter: 3.0}\n"
    read = sweep("  x: {min: 1, max: 2}\n", bands + HEAD.replace("run_cap: 5", "run_cap: 20.0"))
    assert read.run_cap == 20
    assert type(read.run_cap) is int
    assert read.hyperband is not None
    assert read.hyperband.bands[0] == 3


def test_a_grid_refuses_what_it_cannot_hold() -> None:
    head = HEAD.replace("random", "grid")
    for entry in ("{min: 0.1, max: 0.2}", "{values: [1], probabilities: [1]}"):
        (line,) = mistakes(head + f"  x: {entry}\n")
        assert "a grid cannot hold" in line
    assert sweep("  x: {distribution: q_uniform, min: 0, max: 1, q: 0.5}\n", head).parameters


def test_bayes_and_hyperband_need_a_metric() -> None:
    text = "program: train.py\nmethod: {}\nrun_cap: 1\n{}parameters: {{x: {{value: 1}}}}\n"
    assert "method bayes needs a metric" in mistakes(text.format("bayes", ""))[0]
    stopping = "early_terminate: {type: hyperband, min_iter: 1}\n"
    assert "early_terminate needs a metric" in mistakes(text.format("random", stopping))[0]
    assert parse_sweep(text.format("random", ""), "s").metric is None


def test_what_wandb_only_warns_of_is_a_warning() -> None:
    text = (
        "program: train.py\nmethod: random\ncontroller: {type: local}\n"
        "metric: {name: a, goal: max, impute: mean, unit: nats}\n"
        "early_terminate: {type: hyperband, min_iter: 2, extra: 1}\n"
        "command: ['${env}', '${arg}', '${envvar:HOME}']\n"
        "parameters:\n  x: {min: 1, max: 2.5}\n"
        "  y: {distribution: log_uniform, min: -4.6, max: -2.3}\n  z: {values: [1e-4]}\n"
    )
    read = parse_sweep(text, "s.yaml")
    lines = [each.text("s.yaml") for each in read.warnings]
    expected = [
        "s.yaml:2: method: random never ends by itself",
        "s.yaml:3: controller: belongs to W&B's own controller",
        "s.yaml:4: metric.goal: got 'max', which W&B takes for minimize",
        "s.yaml:4: metric.impute: got 'mean', which W&B takes for worst",
        "s.yaml:4: metric.unit: W&B takes no notice of it",
        "s.yaml:5: early_terminate.extra: W&B takes no notice of it",
        "s.yaml:6: command[1]: W&B leaves ${arg} out; did you mean ${args}?",
        "s.yaml:8: parameters.x: min 1 and max 2.5 are a whole number and a fraction",
        "s.yaml:9: parameters.y: log_uniform takes exponents of e: this draws from 0.0101 to 0.1;",
        "s.yaml:10: parameters.z.values[0]: 1e-4 is text to YAML",
    ]
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)
    assert read.metric is not None
    assert (read.metric.goal, read.metric.impute, read.metric.sign) == ("minimize", "worst", 1)


def test_nesting_names_and_order() -> None:
    read = sweep(
        "  b: {value: 1}\n  a:\n    parameters:\n      z-y: {value: 2}\n"
        "      c.d: {values: [3, 4]}\n  Z: {value: 5}\n"
    )
    assert [parameter.name for parameter in read.parameters] == ["Z", "a.c.d", "a.z-y", "b"]
    values = {"Z": 5, "a.c.d": 3, "a.z-y": 2, "b": 1}
    assert read.nested(values) == {"Z": 5, "a": {"c.d": 3, "z-y": 2}, "b": 1}


def test_everything_else_is_kept() -> None:
    read = parse_sweep(
        "program: p.py\nname: n\nproject: q\nentity: e\ndescription: d\nmethod: bayes\n"
        "run_cap: 7\nmetric: {name: acc, goal: maximize, target: 0.9, impute: latest, "
        "impute_while_running: best}\nearly_terminate: {type: hyperband, max_iter: 27, s: 2}\n"
        "command: [python, '${program}', '${args}']\nparameters: {x: {min: 1, max: 2}}\n",
        "s.yaml",
    )
    assert (read.name, read.run_cap, read.program) == ("n", 7, "p.py")
    assert read.metric is not None
    assert vars(read.metric) == {
        "name": "acc", "goal": "maximize", "target": 0.9, "impute": "latest",
        "impute_while_running": "best",
    }  # fmt: skip
    assert read.metric.sign == -1
    assert read.hyperband is not None
    assert read.hyperband.bands == (3, 9)
    assert read.command == ("python", "${program}", "${args}")


@pytest.mark.parametrize("file", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda f: f.stem)
def test_the_bundled_files_are_without_a_warning(file: Path) -> None:
    read = read_sweep(file)
    assert read.warnings == ()
    assert read.name == file.stem
