"""A sweep file means here what it means to W&B, and every mistake in it is told at once."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from fundamentallm.sweep.check.warnings import check_any
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import SweepFile, examine_sweep, parse_sweep, read_sweep

HEAD = "program: train.py\nmethod: random\nrun_cap: 5\nmetric: {name: val_loss}\nparameters:\n"


def sweep(parameters: str, head: str = HEAD) -> SweepFile:
    return parse_sweep(head + parameters, "s.yaml")


def mistakes(text: str) -> list[str]:
    with pytest.raises(SweepError) as error:
        parse_sweep(text, "s.yaml")
    return str(error.value).split("\n")


def found(text: str, folder: Path) -> list[str]:
    """`LEVEL FILE:LINE: KEY: MESSAGE`, as `check` and `sweep` say it of any program's sweep."""
    file = folder / "s.yaml"
    file.write_text(text)
    read = examine_sweep(file)
    check_any(read, read.diagnostics)
    return [f"{each.level} {each.text('s')}" for each in read.diagnostics.sorted()]


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
        ("{min: 1, max: 3, step: 1}", "x.step: int_uniform takes only min, max"),
        (
            "{values: [1], y: {values: [2]}}",
            "x.y: categorical takes only values; if it is a parameter too, indent it like x",
        ),
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
        ("{parameters: {a: {value: 1}}, value: 2}", "x.value: not allowed beside"),
    ],
)
def test_what_wandb_refuses_is_refused(entry: str, message: str) -> None:
    (line,) = mistakes(HEAD + f"  x: {entry}\n")
    assert line.startswith("s.yaml:6: parameters.x")
    assert message in line


def test_all_mistakes_and_warnings_are_told_at_once_in_order(tmp_path: Path) -> None:
    lines = found(
        "methd: grid\nrun_cap: 0\nmetric: {goal: minimize}\n"
        "early_terminate: {type: hyperband, eta: 1, s: 0}\nparameters:\n  9x: {value: 1}\n"
        "  y: {min: 2, max: 1}\n  y: {min: .nan, max: a, step: 1}\n"
        "  z: {distribution: log_uniform, min: -4, max: -2}\n  lr: {min: 0.0001, max: 0.1}\n",
        tmp_path,
    )
    assert [" ".join(line.split(": ")[:2]) for line in lines] == [
        "error s method is missing; give grid, random or bayes",
        "warning s:1 methd",
        "error s:2 run_cap",
        "error s:3 metric.name",
        "error s:4 early_terminate.eta",
        "error s:4 early_terminate.s",
        "warning s:6 parameters.9x",
        "warning s:8 parameters.y",
        "error s:8 parameters.y.max",
        "error s:8 parameters.y.min",
        "error s:8 parameters.y.step",
        "warning s:9 parameters.z",
        "warning s:10 parameters.lr",
    ]
    assert "did you mean method?" in lines[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("method: custom", "only wandb sweep-scheduler"),
        ("method: baye", "did you mean bayes?"),
        ("early_terminate: {type: median}", "W&B has only hyperband"),
        ("early_terminate: {type: hyperband}", "give min_iter, or max_iter together with s"),
        ("early_terminate: {type: hyperband, max_iter: 2, s: 1}", "gives no band"),
        ("early_terminate: {type: hyperband, min_iter: 1.5}", "got 1.5; give a whole number"),
        ("early_terminate: {type: hyperband, min_iter: 1, strict: 1}", "give true or false"),
        ("command: python", "give a list of words"),
        ("run_cap: 2.5", "give a whole number"),
        ("metric: val_loss", "give a mapping with a name"),
        ("metric: {name: a, target: best}", "give a number"),
        ("metric: {name: a, impute_while_running: mean}", "give latest, best, worst"),
    ],
)
def test_mistakes_outside_of_parameters(change: str, message: str) -> None:
    head = HEAD.replace("random", "bayes")  # which needs the metric
    content: dict[str, Any] = yaml.safe_load(head + "  x: {min: 1, max: 2}\n")
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
        "command: ['${env}', '${arg}', '${envvar:HOME}', 'x.y=${y}', 'x=${HOME}', "
        "'${envvar:PWD}/a', '${args}${env}']\n"
        "parameters:\n  +x: {min: 1, max: 2}\n"
        "  y: {distribution: log_uniform, min: -4.6, max: -2.3}\n  z: {values: [1e-4]}\n"
        "count: 5\nsettings: {a: 1}\nname: 3\nmetrics: []\n"
    )
    read = parse_sweep(text, "s.yaml")
    lines = [each.text("s.yaml") for each in read.diagnostics.warnings]
    expected = [
        "s.yaml:2: method: random never ends without a limit",
        "s.yaml:3: controller: is for wandb controller, which searches for a sweep on W&B; it has",
        "s.yaml:4: metric.goal: got 'max', which W&B reads as minimize",
        "s.yaml:4: metric.impute: got 'mean', which W&B reads as worst",
        "s.yaml:4: metric.unit: W&B ignores it",
        "s.yaml:5: command[1]: W&B drops ${arg}; did you mean ${args}?",
        "s.yaml:5: command[3]: W&B replaces ${y} only if it is the whole word",
        "s.yaml:5: command[6]: W&B drops ${args}${env}; give each macro a word of its own",
        "s.yaml:7: parameters.+x: W&B's schema warns of this name",
        "s.yaml:8: parameters.y: log_uniform takes exponents of e: this draws from 0.0101 to 0.1;",
        "s.yaml:9: parameters.z.values[0]: 1e-4 is text in YAML",
        "s.yaml:10: count: not a field of W&B's format, and has no effect here; did you mean run_",
        "s.yaml:11: settings: not a field of W&B's format, and has no effect here",
        "s.yaml:12: name: got 3, but W&B's schema requires text",
        "s.yaml:13: metrics: W&B takes several metrics only with method custom",
    ]
    assert len(lines) == len(expected), lines
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)
    assert read.metric is not None
    assert (read.metric.goal, read.metric.impute, read.metric.sign) == ("minimize", "worst", 1)
    assert read.name == "3"


@pytest.mark.parametrize(
    ("early_terminate", "finding"),
    [
        ("max_iter: 27, s: 2.0", "error s:5: early_terminate.s: got 2.0, which W&B cannot run"),
        ("max_iter: 27, min_iter: 3", "error s:5: early_terminate.max_iter: W&B cannot run it"),
        ("min_iter: 3, eta: 5000.0", "error s:5: early_terminate.eta: W&B cannot count so far"),
        ("min_iter: 3, s: 2", "warning s:5: early_terminate.s: has no effect without max_iter"),
        ("max_iter: 27, min_iter: 3, s: 2", "warning s:5: early_terminate.min_iter: has no effect"),
        ("min_iter: 3, extra: 1", "warning s:5: early_terminate.extra: W&B ignores it"),
    ],
)
def test_hyperband_that_wandb_cannot_run(
    early_terminate: str, finding: str, tmp_path: Path
) -> None:
    """.ci/check_sweeps.py holds the same against W&B's own code; a stored sweep goes on."""
    text = HEAD.replace("parameters", f"early_terminate: {{type: hyperband, {early_terminate}}}\n")
    text = text.replace("}\n:", "}\nparameters:") + "  x: {min: 1, max: 2}\n"
    (line,) = found(text, tmp_path)
    assert line.startswith(finding)
    assert parse_sweep(text, "s.yaml").hyperband is not None


@pytest.mark.parametrize(
    ("entry", "refused"),
    [
        ("dropout: {min: 0, max: 0.5}", True),
        ("dropout: {min: 0.0, max: 1}", True),
        ("dropout: {min: 0.0, max: 0.5}", False),
        ("dropout: {min: 0, max: 5}", False),
        ("dropout: {distribution: uniform, min: 0, max: 0.5}", False),
        ("model: {parameters: {dropout: {min: 0, max: 0.5}}}", False),
    ],
)
def test_mixed_ends_are_refused_where_wandbs_client_refuses_them(
    entry: str, refused: bool, tmp_path: Path
) -> None:
    from wandb.apis.public.sweeps import _validate_config_and_fill_distribution

    text = HEAD + f"  {entry}\n"
    with pytest.raises(ValueError, match="ambiguous") if refused else nullcontext():
        _validate_config_and_fill_distribution(yaml.safe_load(text))
    lines = found(text, tmp_path)
    assert [line.startswith("error s:6: parameters.dropout: min") for line in lines] == [
        True
    ] * refused
    (parameter,) = parse_sweep(text, "s.yaml").parameters  # a stored sweep goes on
    assert parameter.distribution.kind == ("int_uniform" if entry.endswith(" 5}") else "uniform")


def test_bayes_over_lists_of_one_value_runs(tmp_path: Path) -> None:
    head = HEAD.replace("random", "bayes")
    (line,) = found(head + "  x: {values: [3]}\n", tmp_path)
    assert line.startswith("warning s:5: parameters: every list has one value")
    (line,) = found(head + "  x: {value: 3}\n", tmp_path)
    assert line.startswith("error s:5: parameters: bayes has nothing to search")


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("lr: {min: 0.0001, max: 0.1}", True),
        (
            "optimizer: {parameters: {base-lr: {distribution: uniform, min: 0.0001, max: 0.1}}}",
            True,
        ),
        ("weightDecay: {min: 0.0001, max: 0.1}", True),
        ("+model.lr: {min: 0.0001, max: 0.1}", True),
        ("lr: {min: 0.001, max: 0.002}", False),
        ("lr: {min: 0.0, max: 0.1}", False),
        ("lr: {distribution: log_uniform_values, min: 0.0001, max: 0.1}", False),
        ("dropout_rate: {min: 0.001, max: 0.5}", False),
        ("lr_warmup_steps: {distribution: uniform, min: 1, max: 1000}", False),
    ],
)
def test_rates_in_equal_steps_are_told_in_any_program(
    entry: str, told: bool, tmp_path: Path
) -> None:
    lines = found(HEAD.replace("train.py", "foreign.py") + f"  {entry}\n", tmp_path)
    assert ["nine of ten draws" in line for line in lines if "schema" not in line] == [True] * told


def test_a_count_with_an_exponent_is_shown_as_a_whole_number(tmp_path: Path) -> None:
    text = HEAD.replace("run_cap: 5", "run_cap: 1e2") + "  x: {values: [1e5, 5e-1]}\n"
    ends = [line.rpartition("; ")[2] for line in found(text, tmp_path)]
    assert ends == ["write 100", "write 100000, or 100000.0 for fractions", "write 0.5"]
    assert parse_sweep(text, "s.yaml").run_cap == 100


def test_a_scheduler_belongs_to_launch_beside_a_job() -> None:
    text = "method: grid\nparameters: {x: {value: 1}}\nscheduler: {num_workers: 8}\n"
    for beside, owner in (("program: t.py\n", "wandb sweep-scheduler"), ("job: a\n", "W&B Launch")):
        found = parse_sweep(beside + text, "s.yaml").diagnostics.warnings
        (message,) = [each.message for each in found if each.key == "scheduler"]
        assert message.startswith(f"is for {owner}, which")


def test_nesting_names_and_order() -> None:
    read = sweep(
        "  b: {value: 1}\n  a:\n    parameters:\n      z-y: {value: 2}\n"
        "      c.d: {values: [3, 4]}\n  Z: {value: 5}\n"
    )
    assert [parameter.name for parameter in read.parameters] == ["Z", "a.c.d", "a.z-y", "b"]
    values = {"Z": 5, "a.c.d": 3, "a.z-y": 2, "b": 1}
    assert read.nested(values) == {"Z": 5, "a": {"c.d": 3, "z-y": 2}, "b": 1}
    values["b"] = [{"y": 1, "x": {"b": 2, "a": 3}}]
    assert str(read.nested(values)["b"]) == "[{'x': {'a': 3, 'b': 2}, 'y': 1}]"


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
    assert read.diagnostics.found == []
    assert read.name == file.stem


@pytest.mark.parametrize(
    "wrong",
    [
        "method: [grid]",
        "method: {a: 1}",
        "method: random\nparameters: {dropout: {distribution: [uniform]}}",
    ],
)
def test_odd_kinds_of_values_are_mistakes(wrong: str) -> None:
    with pytest.raises(SweepError):
        parse_sweep(f"program: train.py\nmetric: {{name: val_loss}}\n{wrong}\n", "t")


@pytest.mark.parametrize(("q", "kind"), [("", int), ("q: 8,", int), ("q: 0.5,", float)])
def test_a_multiple_of_a_whole_q_is_passed_as_a_whole_number(q: str, kind: type) -> None:
    """A program reads a batch size by `type=int`, or gives it to a data loader."""
    entry = f"{{distribution: q_log_uniform_values, {q} min: 8, max: 64}}"
    sweep = parse_sweep(
        f"program: p.py\nmethod: random\nparameters: {{batch_size: {entry}}}\n", "t"
    )
    nested = sweep.nested({"batch_size": sweep.parameters[0].distribution.quantile(0.5)})
    assert type(nested["batch_size"]) is kind
