"""Which runs of an earlier sweep a new one may learn from, and what is said of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from fundamentallm.report.earlier import usable_runs
from fundamentallm.report.results import Curve, Results, RunResult
from fundamentallm.sweep.file.sweep_file import Metric, parse_sweep
from fundamentallm.sweep.search.base import Values
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.definition import SweepDefinition
from fundamentallm.sweep.store.program_settings import ProgramSettings

HEAD = "program: {program}\nmethod: bayes\nmetric: {{name: {metric}}}\nparameters: "
RATE = "learning_rate: {distribution: log_uniform_values, min: 0.001, max: 0.01}"
SETTINGS = {"learning_rate": 0.002, "data": "a.txt", "data_sha256": "a", "max_steps": 100}
FIXED = {"max_steps": 100}


def sweep(
    parameters: str, program: str = "train.py", metric: str = "val_loss", more: str = ""
) -> Any:
    text = HEAD.format(program=program, metric=metric) + f"{{{parameters}}}\n{more}"
    return parse_sweep(text, "new.yaml")


def definition(
    parameters: str = RATE, fixed: Mapping[str, Any] = FIXED, *, ours: bool = True, **fields: Any
) -> SweepDefinition:
    texts = fields.pop("texts", None)
    found = sweep(parameters, **({} if ours else {"program": "their.py"}), **fields)
    return SweepDefinition(
        SearchSpace(found, fixed if ours else {}, is_ours=ours),
        device="cpu", seed=0, sampler="auto", lease=60.0, texts=texts,
        data_sha256="" if texts else "a" if ours else "",
        program=None if ours else ProgramSettings("", 0.0, False),
    )  # fmt: skip


def run(status: str = "done", score: float | None = 1.5, **settings: Any) -> RunResult:
    curve = {} if score is None else {"val_loss": Curve((8,), (score,))}
    return RunResult("r", status, {**SETTINGS, **settings}, score, curve)


def earlier(*runs: RunResult, metric: Metric = Metric("val_loss")) -> Results:  # noqa: B008
    return Results("runs/old", metric, runs)


def used(new: SweepDefinition, *runs: RunResult) -> tuple[list[Values], str]:
    found = usable_runs(earlier(*runs), new)
    return [trial.values for trial in found.trials], found.line.removeprefix("runs/old: ")


def test_values_and_scores_are_those_of_the_earlier_runs() -> None:
    new = definition(f"{RATE}, num_layers: {{min: 2, max: 6}}")
    runs = [run(num_layers=layers) for layers in (2, 6, 8, 8)] + [run(status="unfinished")] * 2
    values, line = used(new, *runs)
    assert values == [{"learning_rate": 0.002, "num_layers": each} for each in (2, 6)]
    assert line == (
        "2 of 6 runs used; 2 have num_layers 8, outside this sweep's 2 to 6; 2 have not finished"
    )
    (first, _) = usable_runs(earlier(*runs), new).trials
    assert (first.score, first.status, first.history) == (1.5, "done", (1.5,))


@pytest.mark.parametrize(
    ("parameters", "settings", "value"),
    [
        ("dropout: {min: 0.0, max: 0.3}", {"dropout": 0.2}, 0.2),
        ("dropout: {min: 0.0, max: 0.3}", {}, 0.1),  # an older version had the default
        ("weight_decay: {min: 0, max: 1}", {"weight_decay": 1.0}, 1),
        ("weight_decay: {min: 0, max: 1}", {"weight_decay": 0.3}, "outside this sweep's 0 to 1"),
        ("dropout: {values: [0, 0.2]}", {"dropout": 0.0}, 0),
        ("dropout: {values: [0, 0.2]}", {"dropout": 0.3}, "0.3, which is not one of 0, 0.2"),
        ("lr_steps: {values: ['', '10']}", {"lr_steps": "10"}, "10"),
        ("lr_steps: {values: ['', '10']}", {"lr_steps": "20"}, "not one of \"\", 10"),
        ("beta2: {distribution: normal, mu: 0.9, sigma: 0.01}", {"beta2": 0.95}, 0.95),
        ("warmup_steps: {distribution: q_uniform, min: 0, max: 90, q: 10}", {"warmup_steps": 5}, 5),
        ("warmup_steps: {distribution: q_uniform, min: 0, max: 90, q: 10}", {"warmup_steps": 200},
         "has warmup_steps 200, outside this sweep's 0 to 90"),
        ("dropout: {value: 0.2}", {"dropout": 0.1}, "has dropout 0.1, not 0.2 as here"),
        ("seed: {values: [0, 1]}", {"seed": 1}, 1),
        ("seed: {values: [0, 1]}", {"seed": 7}, 1),  # repeats are noise, whatever their seed
    ],
)  # fmt: skip
def test_a_parameter_of_the_new_sweep(parameters: str, settings: Any, value: Any) -> None:
    values, line = used(definition(f"{RATE}, {parameters}"), run(**settings))
    if isinstance(value, str) and " " in value:
        assert values == []
        assert value in line
    else:
        name = parameters.partition(":")[0]
        assert [(each[name], type(each[name])) for each in values] == [(value, type(value))]


def test_a_mapping_is_the_choice_that_sets_the_same() -> None:
    new = definition(
        f"{RATE}, shape: {{values: [{{model_dim: 64}}, {{model_dim: 96, num_layers: 3}}]}}"
    )
    small: dict[str, Any] = {"model_dim": 64}
    wide: dict[str, Any] = {"model_dim": 96, "num_layers": 3}
    values, line = used(new, run(model_dim=64, num_layers=6), run(**wide), run(model_dim=96))
    assert [each["shape"] for each in values] == [small, wide]
    assert line == "2 of 3 runs used; 1 has none of the combinations of shape"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"data_sha256": "b"}, "1 was trained on another text"),
        ({"data_sha256": None}, "1 was trained on another text"),
        ({"max_steps": 200}, "1 has max_steps 200, not 100 as here"),
        ({"epochs": 3}, "1 has epochs 3, not 20 as here"),
        ({"dropout": 0.2}, "1 has dropout 0.2, not 0.1 as here"),  # which only it searched
        ({"seed": 5, "compile": "true"}, ""),
    ],
)
def test_settings_that_the_new_sweep_does_not_search(changed: Any, reason: str) -> None:
    _, line = used(definition(), run(**changed))
    assert line == (f"0 of 1 run used; {reason}" if reason else "1 of 1 run used")


def test_many_values_are_not_all_named() -> None:
    _, line = used(definition(), *(run(batch_size=size) for size in (1, 2, 3, 3, 4)))
    assert line == "0 of 5 runs used; 5 have batch_size 1 or 2 or 3 or others, not 32 as here"


def test_texts_that_the_new_sweep_compares() -> None:
    new = definition(
        f"{RATE}, data: {{values: [x.txt, y.txt]}}", texts={"x.txt": "b", "y.txt": "a"}
    )
    values, line = used(new, run(), run(data="x.txt", data_sha256="c"), run(data_sha256=None))
    assert [each["data"] for each in values] == ["y.txt"]  # the same text under another name
    assert line == "1 of 3 runs used; 2 were trained on another text"


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ({"status": "failed"}, "1 failed"),
        ({"status": "interrupted"}, "1 has not finished"),
        ({"status": "stopped"}, "1 was stopped early, and this sweep stops no run early"),
        ({"score": None}, "1 has not logged val_loss"),
        ({"status": "diverged"}, ""),
        ({"status": "diverged", "score": None}, ""),
        ({"status": "impossible", "score": None}, ""),
    ],
)
def test_how_a_run_ended(end: Any, reason: str) -> None:
    _, line = used(definition(), run(**end))
    assert line == (f"0 of 1 run used; {reason}" if reason else "1 of 1 run used")


def test_a_range_test_is_no_run() -> None:
    test = replace(run(), summary={"range_test": {"low": 0.1, "high": 1.0}})
    assert used(definition(), test)[1] == "0 of 1 run used; 1 was tests of the learning rate"


def test_a_sweep_with_early_termination_takes_runs_that_were_stopped() -> None:
    new = definition(more="early_terminate: {type: hyperband, min_iter: 2}\n")
    assert len(used(new, run(status="stopped"))[0]) == 1


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        (Metric("train_loss"), "it minimizes train_loss, and this sweep minimizes val_loss"),
        (
            Metric("val_loss", "maximize"),
            "it maximizes val_loss, and this sweep minimizes val_loss",
        ),
        (Metric("val_loss", target=1.0), ""),
    ],
)
def test_the_metric_and_its_goal(metric: Metric, reason: str) -> None:
    found = usable_runs(earlier(run(), metric=metric), definition())
    expected = f"no run used; {reason}" if reason else "1 of 1 run used"
    assert found.line == f"runs/old: {expected}"


def their_run(**config: Any) -> RunResult:
    return replace(run(), settings=config, summary={"program": "python their.py"})


def test_the_parameters_of_another_program() -> None:
    text = "optimizer: {parameters: {lr: {min: 0.0, max: 0.1}}}, kind: {values: [a, b]}"
    new = definition(f"{text}, random_seed: {{value: 3}}", ours=False)
    old = sweep("optimizer: {parameters: {lr: {value: 0.05}}}, kind: {values: [b, c]}, "
                "random_seed: {values: [1, 2]}", program="their.py")  # fmt: skip
    runs = [
        their_run(**{"optimizer.lr": 0.05, "kind": "b", "random_seed": 1, "started": 99}),
        their_run(**{"optimizer.lr": 0.05, "kind": "c", "random_seed": 1}),
        their_run(kind="b"),
    ]
    found = usable_runs(replace(earlier(*runs), sweep=old), new)
    assert [trial.values for trial in found.trials] == [
        {"optimizer.lr": 0.05, "kind": "b", "random_seed": 3}
    ]
    assert found.line == (
        "runs/old: 1 of 3 runs used; 1 has kind c, which is not one of a, b; "
        "1 has no value of optimizer.lr; "
        "whether they trained on the same text and as long cannot be checked"
    )


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (None, "x: {min: 0, max: 9}", "its sweep file is unknown, and so is what it searched"),
        ("x: {min: 0, max: 9}, y: {value: 1}", "x: {min: 0, max: 9}",
         "only it sets y, and the program's own value is unknown"),
        ("x: {min: 0, max: 9}", "x: {min: 0, max: 9}, y: {values: [1, 2]}",
         "only this sweep sets y, and the program's own value is unknown"),
    ],
)  # fmt: skip
def test_sweeps_of_another_program_that_cannot_be_compared(
    old: str | None, new: str, reason: str
) -> None:
    before = None if old is None else sweep(old, program="their.py")
    results = replace(earlier(their_run(x=1, y=1)), sweep=before)
    found = usable_runs(results, definition(new, ours=False))
    assert (found.trials, found.line) == ((), f"runs/old: no run used; {reason}")


def test_runs_of_our_trainer_and_of_programs_do_not_mix() -> None:
    line = usable_runs(earlier(their_run(learning_rate=0.002)), definition()).line
    assert "another program made its runs, and this sweep runs our trainer" in line
    line = usable_runs(earlier(run()), definition(ours=False)).line
    assert "our trainer made its runs, and this sweep runs another program" in line
    other = replace(earlier(their_run(x=1)), sweep=sweep("x: {min: 0, max: 9}", program="b.py"))
    line = usable_runs(other, definition("x: {min: 0, max: 9}", ours=False)).line
    assert "b.py" in line
    assert "their.py" in line
