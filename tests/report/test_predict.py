"""Predictions of longer and wider runs, from sweeps whose law is known."""

from __future__ import annotations

import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from results_on_disk import FOREIGN, write_foreign_run, write_run
from tiny_sweep import start

from fundamentallm.cli.main import cli
from fundamentallm.config.hyperparameters import Config
from fundamentallm.model.size import parameter_count
from fundamentallm.report.predict import UNKNOWN_VOCABULARY, UnpredictableError, predict
from fundamentallm.report.read_runs import read_results
from fundamentallm.scaling.fit import PRIOR

LAW = replace(PRIOR, offset=1.4, size_scale=0.15, token_scale=0.25)
MODEL = {"num_layers": 2, "num_heads": 4, "batch_size": 8, "max_seq_len": 128}
LENGTHS, WIDTHS = (250, 500, 1000), (32, 64, 128)
MANY = 1e15


def true_loss(width: int, steps: float) -> float:
    shape = Config(**MODEL, model_dim=width)  # pyright: ignore[reportArgumentType]
    return LAW.loss(parameter_count(shape, UNKNOWN_VOCABULARY), steps * 1024, MANY)


def sweep_of(
    folder: Path,
    runs: list[tuple[int, int]],
    schedule: str = "linear",
    *,
    noise: float = 0.005,
    points: int = 1,
    **settings: Any,
) -> Path:
    """Write a sweep with a run for each width and number of steps."""
    random = np.random.default_rng(0)
    parameters = {"model_dim": {"values": [32, 64, 128]}, "max_steps": {"values": [1, 2]}}
    folder.mkdir()
    (folder / "sweep.yaml").write_text(
        yaml.safe_dump({"program": "train.py", "method": "grid", "parameters": parameters})
    )
    for number, (width, steps) in enumerate(runs, 1):
        every = steps // points
        curve = [true_loss(width, every * (i + 1)) + noise * random.normal() for i in range(points)]
        values = {**MODEL, "lr_schedule": schedule, "model_dim": width, "max_steps": steps}
        write_run(folder / f"run-{number:04}", {**values, **settings}, curve, every=every)
    return folder


def predicted(folder: Path, *, longer: float = 1, wider: float = 1) -> Any:
    return predict(read_results([folder]), longer=longer, wider=wider)


def refusal(folder: Path, **factors: float) -> str:
    with pytest.raises(UnpredictableError) as caught:
        predicted(folder, **factors)
    return str(caught.value)


@pytest.mark.parametrize(
    ("factors", "width", "steps"),
    [({"longer": 4}, 128, 4000), ({"wider": 2}, 256, 1000), ({"longer": 2, "wider": 2}, 256, 2000)],
)
def test_longer_and_wider_runs(
    factors: dict[str, float], width: int, steps: int, tmp_path: Path
) -> None:
    folder = sweep_of(tmp_path / "s", [(w, s) for w in WIDTHS for s in LENGTHS])
    found = predicted(folder, **factors)
    assert found.expected.low < true_loss(width, steps) < found.expected.high
    assert found.expected.loss == pytest.approx(true_loss(width, steps), abs=0.03)
    assert found.expected.width < 0.12
    assert (found.config.model_dim, found.tokens) == (width, steps * 1024)


def test_points_of_a_curve_at_a_constant_rate(tmp_path: Path) -> None:
    folder = sweep_of(tmp_path / "s", [(64, 1000)], "constant", points=8)
    found = predicted(folder, longer=4)
    assert found.expected.low < true_loss(64, 4000) < found.expected.high
    assert "1 run: 7 points, 1 size" in found.says


def test_runs_of_other_configurations_do_not_count(tmp_path: Path) -> None:
    folder = sweep_of(tmp_path / "s", [(64, steps) for steps in LENGTHS])
    before = predicted(folder, longer=2).expected
    for number, steps in enumerate(LENGTHS):
        settings = {**MODEL, "lr_schedule": "linear", "max_steps": steps, "learning_rate": 0.1}
        write_run(folder / f"run-1{number:03}", settings, [3.0], every=steps)
    assert predicted(folder, longer=2).expected == before


@pytest.mark.parametrize(
    ("runs", "factors", "why", "what"),
    [
        ([(64, 500), (64, 1000)], {"longer": 4}, "has 2 lengths", "max_steps 250, 500, 1000"),
        ([(64, s) for s in LENGTHS], {"wider": 2}, "has 1 size", "model_dim 32, 64"),
        ([(64, s) for s in LENGTHS], {"longer": 16}, "span a factor of 4, too", "max_steps 62,"),
        ([(w, 500) for w in WIDTHS], {"wider": 16}, "too little for", "model_dim 8, 128"),
    ],
)
def test_too_few_runs_are_refused(
    runs: list[tuple[int, int]], factors: dict[str, float], why: str, what: str, tmp_path: Path
) -> None:
    """Each refusal names runs that would allow the prediction."""
    said = refusal(sweep_of(tmp_path / "s", runs), **factors)
    assert why in said
    assert what in said


def test_overfitting_is_refused(tmp_path: Path) -> None:
    longer = sweep_of(tmp_path / "a", [(64, s) for s in LENGTHS])
    settings = {**MODEL, "model_dim": 64, "lr_schedule": "linear", "max_steps": 2000}
    write_run(longer / "run-0009", {**settings, "seed": 1}, [true_loss(64, 500)], every=2000)
    assert "longer runs did worse" in refusal(longer, longer=2)
    curve = sweep_of(tmp_path / "b", [(64, 100)], "constant")
    values = [2.0, 1.8, 1.7, 1.65, 1.7, 1.8]
    write_run(curve / "run-0001", {**MODEL, "lr_schedule": "constant"}, values)
    assert "val_loss of run-0001 rose, from 1.6500 to 1.8000" in refusal(curve, longer=2)


def test_larger_models_that_do_worse_are_refused(tmp_path: Path) -> None:
    folder = sweep_of(tmp_path / "s", [(32, 1000), (64, 1000)])
    settings = {**MODEL, "model_dim": 128, "lr_schedule": "linear", "max_steps": 1000}
    write_run(folder / "run-0003", settings, [true_loss(32, 1000)], every=1000)
    assert "did worse than fewer" in refusal(folder, wider=2)


@pytest.mark.parametrize("schedule", ["step", "exponential"])
def test_schedules_that_are_unfair_among_lengths_are_refused(schedule: str, tmp_path: Path) -> None:
    folder = sweep_of(tmp_path / "s", [(64, s) for s in LENGTHS], schedule, lr_steps="100")
    assert f"lr_schedule {schedule} is not fair" in refusal(folder, longer=2)


def test_a_run_whose_rate_has_not_decayed_is_refused(tmp_path: Path) -> None:
    folder = sweep_of(tmp_path / "s", [(64, 1000)])
    summary = folder / "run-0001/summary.json"
    summary.write_text(summary.read_text().replace('"total_steps": 1000', '"total_steps": 2000'))
    assert "ended before its rate had decayed" in refusal(folder, longer=2)


def test_wide_intervals_are_refused(tmp_path: Path) -> None:
    runs = [(64, s) for s in LENGTHS for _ in range(2)]
    folder = sweep_of(tmp_path / "s", runs, noise=0.2)
    for number in range(1, len(runs) + 1):
        config = folder / f"run-{number:04}/config.yaml"
        config.write_text(config.read_text() + f"seed: {number}\n")
    assert "may be anything between" in refusal(folder, longer=4)


def test_losses_that_follow_no_power_law_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    for number, (steps, loss) in enumerate([(250, 3.0), (500, 2.9), (1000, 1.0)], 1):
        settings = {**MODEL, "model_dim": 64, "lr_schedule": "cosine", "max_steps": steps}
        write_run(folder / f"run-{number:04}", settings, [loss], every=steps)
    assert "follow no power law" in refusal(folder, longer=2)


def test_another_program_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    write_foreign_run(folder / "run-0001", {"lr": 1}, [{"eval/acc": 0.5}])
    (folder / "sweep.yaml").write_text(FOREIGN)
    assert "another program" in refusal(folder, longer=2)


def test_the_command_prints_a_line(tmp_path: Path) -> None:
    folder = sweep_of(tmp_path / "s", [(w, s) for w in WIDTHS for s in LENGTHS])
    done = CliRunner().invoke(cli, ["predict", str(folder), "--longer", "2", "--wider", "2"])
    assert done.exit_code == 0
    line = re.match(
        r"val_loss ([\d.]+), with 90% between ([\d.]+) and ([\d.]+), for the configuration of "
        r"run-0009 \(now [\d.]+\) at model_dim 256 \([\d,]+ parameters\) after 2.05 million "
        r"tokens; from 9 runs: 3 lengths, 3 sizes\n",
        done.output,
    )
    assert line
    loss, low, high = map(float, line.groups())
    assert low < loss < high
    assert "give --longer" in CliRunner().invoke(cli, ["predict", str(folder)]).output


@pytest.mark.slow
def test_forty_predictions_of_real_runs() -> None:
    """docs/dev/scaling.md has the table."""
    # results_on_disk has made the benchmarks importable
    import predictions  # pyright: ignore[reportMissingImports]

    rows = predictions.read_rows()
    judged = [predictions.judge(rows, case, PRIOR) for case in predictions.cases()]
    told = [each for each in judged if each is not None and "silent" not in each]
    assert len(judged) == 40
    assert sum(each["held"] for each in told) >= 34
    assert statistics.median(each["width"] for each in told) < 0.1


@pytest.mark.slow
def test_a_sweep_that_ran(tmp_path: Path, text_file: Path) -> None:
    """The folder has all that a prediction needs; runs as short as these follow no law."""
    (tmp_path / "s.yaml").write_text(
        "program: train.py\nmethod: grid\nmetric: {name: val_loss, goal: minimize}\n"
        "parameters:\n  max_steps: {values: [20, 40, 80]}\n  lr_schedule: {value: wsd}\n"
    )
    tiny = ["--model-dim=16", "--num-layers=1", "--num-heads=2", "--max-seq-len=16"]
    sweep = start(tmp_path, "sweep", "s.yaml", text_file, "--output-dir", "s", "--", *tiny)
    sweep.communicate()
    done = start(tmp_path, "predict", "s", "--longer", "2")
    assert "s: its losses follow no power law" in done.communicate()[0]
    assert done.returncode == 2
