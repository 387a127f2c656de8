"""`fundamentallm sweep` and `agent`, as people use them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, TEXT, Run, nightly
from tiny_sweep import FLAGS, grid, metric_rows, processes, start, summaries, trials, wait_for

from fundamentallm.cli.sweep_flags import read_shared_settings
from fundamentallm.config.presets import PRESETS
from fundamentallm.sweep.file.sweep_file import parse_sweep


@pytest.fixture
def sweep_file(tmp_path: Path, text_file: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(grid())
    return file


def test_a_grid_ends_and_is_not_repeated(
    run: Run, tmp_path: Path, sweep_file: Path, text_file: Path
) -> None:
    done = run("sweep", sweep_file, text_file.name, "--", *FLAGS)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/tiny"
    found = summaries(folder)
    assert list(found) == ["run-0001", "run-0002", "run-0003", "run-0004"]
    assert {each["status"] for each in found.values()} == {"done"}
    configs = [yaml.safe_load((folder / name / "config.yaml").read_text()) for name in found]
    points = [(config["learning_rate"], config["seed"]) for config in configs]
    assert points == [(0.001, 0), (0.001, 1), (0.002, 0), (0.002, 1)]  # W&B's order
    assert {config["model_dim"] for config in configs} == {16}
    assert {config["data"] for config in configs} == {text_file.name}  # of the first run too
    best = min(found.values(), key=lambda each: each["best_val_loss"])
    assert f"best val_loss {best['best_val_loss']:.4f}" in done.stdout
    assert all((folder / name / "best.pt").exists() for name in found)
    rows = metric_rows(folder / "run-0002")
    values = [row["val_loss"] for row in rows if "val_loss" in row]
    stored = next(trial for trial in trials(folder) if trial.user_attrs["run"] == 1)
    assert stored.value == min(values)
    assert list(stored.intermediate_values.values()) == values
    assert stored.params == {"learning_rate": 0.001, "seed": 1}
    again = run("sweep", sweep_file, text_file.name, "--", *FLAGS)
    assert again.returncode == 0
    assert "starts" not in again.stdout
    assert len(trials(folder)) == 4
    assert processes(str(tmp_path)) == []


def test_a_sweep_resumes_and_only_run_cap_may_change(
    run: Run, tmp_path: Path, text_file: Path
) -> None:
    file = tmp_path / "r.yaml"
    text = grid().replace("grid", "random").replace("metric", "run_cap: 2\nmetric")
    file.write_text(text)
    command = ("sweep", file, text_file, "--output-dir", "out", "--workers", 1, "--", *FLAGS)
    assert run(*command[:-6], "--count", 1, "--", *FLAGS).returncode == 0
    assert len(summaries(tmp_path / "out")) == 1
    assert run(*command).returncode == 0
    assert len(summaries(tmp_path / "out")) == 2
    file.write_text("# a comment\n" + text.replace("run_cap: 2", "run_cap: 3"))
    assert run(*command).returncode == 0
    assert len(summaries(tmp_path / "out")) == 3
    for change, message in [
        ("run_cap: 2", "run_cap was 3 and is 2"),
        ("steps: {value: 17}", "parameters.max_steps.value was 16 and is 17"),
    ]:
        file.write_text(text.replace(change.split("{")[0] + "{value: 16}", change))
        refused = run(*command)
        assert refused.returncode == 2
        assert message in refused.stderr
    file.write_text(text.replace("run_cap: 2", "run_cap: 3"))
    for other, message in [
        (("--seed", 1), "seed was 0 and is 1"),
        (("--sampler", "tpe"), "sampler was auto and is tpe"),
    ]:
        refused = run(*command[:-6], *other, "--", *FLAGS)
        assert refused.returncode == 2
        assert message in refused.stderr
    assert "fixed.dropout is new (0.2)" in run(*command, "--dropout=0.2").stderr
    text_file.write_text(TEXT + "more")
    assert "the text's hash was" in run(*command).stderr


def test_random_runs_depend_on_the_seed_and_their_number_alone(
    run: Run, tmp_path: Path, text_file: Path
) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        "program: train.py\nmethod: random\nrun_cap: 4\nmetric: {name: val_loss}\nparameters:\n"
        "  learning_rate: {distribution: log_uniform_values, min: 0.0001, max: 0.01}\n"
        "  max_steps: {value: 4}\n"
    )
    rates: list[list[float]] = []
    for name, workers in [("a", 1), ("b", 3)]:
        flags = ("--output-dir", name, "--workers", workers, "--", *FLAGS)
        assert run("sweep", file, text_file, *flags).returncode == 0
        configs = sorted((tmp_path / name).glob("run-*/config.yaml"))
        rates.append([yaml.safe_load(path.read_text())["learning_rate"] for path in configs])
    assert rates[0] == rates[1]
    assert len(set(rates[0])) == 4


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_an_exhausted_space_ends_the_sweep(
    method: str, run: Run, tmp_path: Path, text_file: Path
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        f"program: train.py\nmethod: {method}\nrun_cap: 9\nmetric: {{name: val_loss}}\n"
        "parameters:\n  learning_rate: {values: [0.001, 0.01]}\n  seed: {values: [1, 2]}\n"
        "  max_steps: {value: 4}\n"
    )
    done = run("sweep", file, text_file, "--output-dir", "s", "--workers", 2, "--", *FLAGS)
    assert done.returncode == 0, done.stderr
    assert "only 4 different configurations exist" in done.stdout
    configs = [yaml.safe_load(p.read_text()) for p in (tmp_path / "s").glob("run-*/config.yaml")]
    points = {(each["learning_rate"], each["seed"]) for each in configs}
    assert len(configs) == len(points) == 4
    again = run("sweep", file, text_file, "--output-dir", "s", "--workers", 2, "--", *FLAGS)
    assert (again.returncode, len(list((tmp_path / "s").glob("run-*")))) == (0, 4)


def test_bad_input_is_one_line_and_leaves_nothing(
    run: Run, tmp_path: Path, sweep_file: Path, text_file: Path
) -> None:
    def line(*arguments: object) -> str:
        done = run("sweep", *arguments)
        assert done.returncode == 2, done.stdout
        assert not (tmp_path / "runs").exists()
        return done.stderr.strip()

    foreign = tmp_path / "foreign.yaml"
    foreign.write_text(grid().replace("train.py", "other.py"))
    assert "other.py does not exist" in line(foreign)
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text(grid().replace("learning_rate", "lerning_rate"))
    assert "unknown.yaml:5: parameters.lerning_rate: not a hyperparameter; did you mean" in line(
        unknown
    )
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(grid().replace("val_loss", "val_los"))
    assert "our trainer does not log val_los; did you mean val_loss?" in line(wrong)
    assert "No such file" in line("none.yaml")
    assert "no such file" in line(sweep_file, "none.txt")
    typo = line(sweep_file, text_file, "--", "--learning-rat=1")
    assert "there is no flag --learning-rat; did you mean --learning-rate?" in typo
    assert "seed is also fixed to 3" in line(sweep_file, text_file, "--", "--seed=3")
    many = tmp_path / "many.yaml"
    many.write_text(grid().replace("learning_rate", "a").replace("seed", "b"))
    assert len(line(many).split("\n")) == 2
    assert "give postgresql://" in line(sweep_file, text_file, "--storage", "mysql://host/db")
    assert "--sampler tpe: the sweep is a grid" in line(sweep_file, text_file, "--sampler", "tpe")
    assert "leave out the password" in line(
        sweep_file, text_file, "--storage", "postgresql://me:secret@host/db"
    )
    assert "secret" not in line(sweep_file, text_file, "--storage", "postgresql://me:secret@h/db")
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("mine")
    assert "thesis.txt is in it" in line(sweep_file, text_file, "--output-dir", full)
    done = run("agent", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "no sweep found" in done.stderr
    assert not (tmp_path / "nowhere").exists()


def test_the_file_overrides_a_preset_for_all_runs() -> None:
    sweep = parse_sweep(
        "program: train.py\nmethod: grid\nparameters:\n"
        "  learning-rate: {values: [0.001, 0.01]}\n  o: {parameters: {num_layers: {value: 3}}}\n",
        "x.yaml",
    )
    fixed = read_shared_settings(sweep, ["--preset", "fast", "--dropout", "0.2"]).settings
    preset = PRESETS["fast"].values
    assert fixed["dropout"] == 0.2
    assert set(fixed) == set(preset) - {"learning_rate", "num_layers"}
    typed = read_shared_settings(sweep, ["--preset", "fast", "--learning-rate", "0.1"]).settings
    assert typed["learning_rate"] == 0.1  # which check() then refuses


PROGRAM = ["${env}", "${interpreter}", "${program}"]


@pytest.mark.parametrize(
    ("command", "settings", "data"),
    [
        ([*PROGRAM, "${args}"], {}, None),
        ([*PROGRAM, "plays.txt", "--dropout=0.2", "${args}"], {"dropout": 0.2}, "plays.txt"),
        (["python", "-u", "${program}", "${args}", "--no-early-stopping"], {}, None),
        (["python", "-m", "fundamentallm", "train", "a.txt", "${args}"], {}, "a.txt"),
        (["/x/fundamentallm", "train", "--seed", "3", "--no-wandb", "${args}"], {"seed": 3}, None),
        ([*PROGRAM, "--config", "${args_json_file}", "--seed=3"], {"seed": 3}, None),
        ([*PROGRAM, "--output-dir", "x", "--log-model", "${args_no_hyphens}"], {}, None),
        (["python", "train.py", "--seed=3", "${args}"], {"seed": 3}, None),
    ],
)  # fmt: skip
def test_every_form_of_command(
    command: list[str], settings: dict[str, Any], data: str | None
) -> None:
    text = json.dumps({"program": "train.py", "method": "grid", "command": command,
                       "parameters": {"epochs": {"value": 3}}})  # fmt: skip
    every = read_shared_settings(parse_sweep(text, "x.yaml"), [])
    assert {k: v for k, v in every.settings.items() if k != "early_stopping"} == settings
    assert (every.device, every.data) == ("auto", data)
    stronger = read_shared_settings(parse_sweep(text, "x.yaml"), ["--seed=4", "--device=cpu"])
    assert (stronger.settings["seed"], stronger.device) == (4, "cpu")


def test_the_text_of_a_command_is_the_sweeps(run: Run, tmp_path: Path, text_file: Path) -> None:
    command = json.dumps([*PROGRAM, text_file.name, "${args}"])
    (tmp_path / "c.yaml").write_text(grid(1, 1) + f"command: {command}\n")
    other = tmp_path / "other.txt"
    other.write_text("x" * 1000)
    refused = run("sweep", "c.yaml", other, "--count", 0, "--", *FLAGS)
    assert refused.returncode == 2
    assert "its command names the text cats.txt; leave out" in refused.stderr
    done = run("sweep", "c.yaml", "--", *FLAGS)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((tmp_path / "runs/c/run-0001/config.yaml").read_text())["data"] == (
        "cats.txt"
    )


def test_impossible_points_are_left_out_of_a_grid(
    run: Run, tmp_path: Path, text_file: Path
) -> None:
    file = tmp_path / "heads.yaml"
    file.write_text(
        "program: train.py\nmethod: grid\nmetric: {name: val_loss}\nparameters:\n"
        "  num_heads: {values: [2, 3, 4]}\n  model_dim: {values: [8, 12]}\n"
        "  max_steps: {value: 2}\n"
    )
    flags = ["--num-layers=1", "--max-seq-len=16", "--batch-size=4"]
    done = run("sweep", file, text_file, "--", *flags)
    assert done.returncode == 0, done.stderr
    assert "impossible configurations left out of the grid: 1" in done.stdout
    assert len(summaries(tmp_path / "runs/heads")) == 5


def test_a_failed_run_is_retried_on_request(run: Run, tmp_path: Path, text_file: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(
        "program: train.py\nmethod: grid\nmetric: {name: val_loss}\nparameters:\n"
        "  data: {values: [cats.txt, gone.txt]}\n  max_steps: {value: 2}\n"
    )
    done = run("sweep", file, "--", *FLAGS)
    assert done.returncode == 1
    assert "run 2 failed: " in done.stderr
    assert "gone.txt: no such file" in done.stderr
    folder = tmp_path / "runs/f"
    assert summaries(folder)["run-0002"]["status"] == "failed"
    (tmp_path / "gone.txt").write_text(TEXT)
    assert run("agent", folder).returncode == 1  # not asked to try it again
    again = run("agent", folder, "--retries", 1)
    assert again.returncode == 0, again.stderr
    assert summaries(folder)["run-0002"]["status"] == "done"
    assert len(trials(folder)) == 3


def test_ctrl_c_saves_and_the_same_command_resumes(
    run: Run, tmp_path: Path, sweep_file: Path, text_file: Path
) -> None:
    sweep_file.write_text(grid(seeds=1, steps=1200, every=100))
    command = ("sweep", sweep_file, text_file, "--workers", 2, "--", *FLAGS)
    process = start(tmp_path, *command)
    folder = tmp_path / "runs/tiny"
    wait_for(lambda: len(list(folder.glob("run-*/last.pt"))) == 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "stopping: runs in progress save their state" in output
    assert "resume with: fundamentallm agent runs/tiny" in output
    assert {each["status"] for each in summaries(folder).values()} == {"interrupted"}
    assert processes(str(tmp_path)) == []
    going_on = run(*command)
    assert going_on.returncode == 0, going_on.stdout
    assert "run 1 of 2 resumes" in going_on.stdout
    for name, each in summaries(folder).items():
        assert each["status"] == "done"
        steps = [row["step"] for row in metric_rows(folder / name)]
        assert steps == sorted(set(steps))
        assert steps[-1] == 1200
    complete = [trial for trial in trials(folder) if trial.state.name == "COMPLETE"]
    assert [len(trial.intermediate_values) for trial in complete] == [12, 12]  # with their past


def test_hyperband_stops_runs(run: Run, tmp_path: Path, text_file: Path) -> None:
    file = tmp_path / "h.yaml"
    file.write_text(
        "program: train.py\nmethod: grid\nmetric: {name: val_loss}\n"
        "early_terminate: {type: hyperband, min_iter: 1, eta: 3}\nparameters:\n"
        "  learning_rate: {values: [0.01, 0.000001, 0.0000011]}\n  eval_every: {value: 20}\n"
        "  max_steps: {value: 1000}\n"
    )
    done = run("sweep", file, text_file, "--workers", 1, "--", *FLAGS)
    assert done.returncode == 0, done.stderr
    found = list(summaries(tmp_path / "runs/h").values())
    assert [each["status"] for each in found] == ["done", "interrupted", "interrupted"]
    assert {each["stopped_by"] for each in found[1:]} == {"hyperband"}
    assert [trial.state.name for trial in trials(tmp_path / "runs/h")] == [
        "COMPLETE", "PRUNED", "PRUNED"
    ]  # fmt: skip
    assert "stopped early by hyperband" in done.stdout


def test_the_command_of_a_file_gives_fixed_flags(run: Run, tmp_path: Path, text_file: Path) -> None:
    file = tmp_path / "c.yaml"
    words = ["${env}", "fundamentallm", "train", "--no-wandb", "--dropout", "0.05", "${args}"]
    file.write_text(grid(1, 1).replace("program: train.py", f"command: {json.dumps(words)}"))
    done = run("sweep", file, text_file, "--", *FLAGS)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((tmp_path / "runs/c/run-0001/config.yaml").read_text())["dropout"] == 0.05


@pytest.mark.parametrize(
    "file",
    [
        file if file.stem == "schedule" else nightly(file)
        for file in sorted((ROOT / "sweeps").glob("*.yaml"))
    ],
    ids=lambda file: file.stem,
)
@pytest.mark.slow
def test_every_bundled_sweep_runs_to_its_end(
    run: Run, tmp_path: Path, text_file: Path, file: Path
) -> None:
    sweep = yaml.safe_load(file.read_text())
    for name, value in {"max_steps": 2, "epochs": 1, "lr_steps": "1"}.items():
        if name != "lr_steps" or name in sweep["parameters"]:
            sweep["parameters"][name] = {"value": value}
    cheap = {"model_dim": 32, "num_layers": 1, "max_seq_len": 32, "batch_size": 2, "num_heads": 4}
    for name, value in cheap.items():
        entry = sweep["parameters"].get(name)
        if entry and "min" in entry:
            sweep["parameters"][name] = {"min": value, "max": value + 1}
        elif entry and "values" in entry:
            count = len(entry["values"])
            sweep["parameters"][name] = {"values": [value * (i + 1) for i in range(count)]}
    if "num_heads" in sweep["parameters"] and "values" in sweep["parameters"]["num_heads"]:
        sweep["parameters"]["num_heads"] = {"values": [2, 4, 8, 16]}
    if "run_cap" in sweep:
        sweep["run_cap"] = min(sweep["run_cap"], 12)
    shortened = tmp_path / file.name
    shortened.write_text(yaml.safe_dump(sweep))
    others = {name: value for name, value in cheap.items() if name not in sweep["parameters"]}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in others.items()]
    done = run("sweep", shortened, text_file, "--workers", 1, "--", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = sweep.get("run_cap")
    if expected is None:
        expected = 1
        for entry in sweep["parameters"].values():
            expected *= len(entry.get("values", [0]))
    found = summaries(tmp_path / "runs" / file.stem)
    assert len(found) == expected
    assert {each["status"] for each in found.values()} <= {"done", "interrupted"}
