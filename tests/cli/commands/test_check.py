"""`check` names every trap, passes what has none, and offers a file without them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT, Run

START = "program: train.py\nmetric: {name: val_loss}\n"
BROKEN = {
    "unknown": ("method: grid\nparameters: {learnin_rate: {values: [0.1]}}", 2, "learning_rate"),
    "type": ("method: grid\nparameters: {num_layers: {values: [2.5]}}", 2, "whole number"),
    "range": ("method: grid\nparameters: {dropout: {values: [0.1, 0.9]}}", 1, "documented range"),
    "exponent": ("method: grid\nparameters: {learning_rate: {values: [1e-4]}}", 1, "text in YAML"),
    "linear": (
        "method: random\nrun_cap: 3\nparameters: {learning_rate: {min: 0.0001, max: 0.01}}",
        1,
        "log_uniform_values",
    ),
    "impossible": (
        "method: grid\nparameters: {model_dim: {values: [64, 128]}, num_heads: {values: [4, 6]}}",
        1,
        "50% of the configurations",
    ),
    "bands": (
        "method: random\nrun_cap: 3\nearly_terminate: {type: hyperband, min_iter: 9}\n"
        "parameters: {dropout: {min: 0.0, max: 0.3}, epochs: {value: 5}}",
        1,
        "but a run makes only 5",
    ),
    "bands in steps": (
        "method: random\nrun_cap: 3\nearly_terminate: {type: hyperband, min_iter: 9}\n"
        "parameters:\n  dropout: {min: 0.0, max: 0.3}\n  max_steps: {value: 50}\n"
        "  eval_every: {value: 10}",
        1,
        "but a run makes only 5",
    ),
    "whole numbers of a share": (
        "method: random\nrun_cap: 3\nparameters: {weight_decay: {min: 0, max: 1}}",
        1,
        "write min: 0.0",
    ),
    "impossible, and nothing to mend": (
        "method: grid\nparameters: {lr_schedule: {values: [constant, step]}}",
        1,
        "fail on W&B",
    ),
    "endless": ("method: random\nparameters: {dropout: {min: 0.0, max: 0.3}}", 1, "never ends"),
    "repeats": ("method: random\nparameters: {dropout: {values: [0.1]}}", 1, "never ends on W&B"),
    "length": (
        "method: grid\nparameters: {epochs: {values: [5, 9]}, early_stopping: {value: true}}",
        1,
        "together with early_stopping",
    ),
    "seed": (
        "method: bayes\nrun_cap: 9\nparameters: {seed: {values: [1, 2]}, dropout: {value: 0.1}}",
        1,
        "lucky seed",
    ),
    "aside": ("method: grid\nparameters: {patience: {values: [1, 2]}}", 1, "better not searched"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_rule(name: str, run: Run, tmp_path: Path) -> None:
    text, code, words = BROKEN[name]
    file = tmp_path / f"{name}.yaml"
    file.write_text(START + text + "\n")
    done = run("check", file)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    found = json.loads(run("check", file, "--json").stdout)["findings"]
    assert words in " ".join(each["message"] for each in found)


def test_impossible_ends_of_a_range_are_accepted(run: Run, tmp_path: Path) -> None:
    """A range without its end, or one that is rounded, as a sweep draws from it."""
    file = tmp_path / "x.yaml"
    for entry in (
        "val_split: {min: 0.0, max: 0.3}",
        "epochs: {distribution: q_uniform, min: 0.5, max: 3.4, q: 1}",
    ):
        file.write_text(f"program: train.py\nmethod: random\nrun_cap: 3\nparameters:\n  {entry}\n")
        done = run("check", str(file))
        assert "3 runs, random" in done.stdout, done.stderr


def test_a_huge_grid_is_refused(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    wide = ("seed", "warmup_steps", "batch_size", "max_steps", "eval_every", "patience", "epochs")
    wide += ("num_layers", "num_heads", "model_dim", "max_seq_len", "gradient_accumulation")
    for names in (wide[:2], wide):
        lines = "".join(f"  {name}: {{min: 1, max: 1000}}\n" for name in names)
        file.write_text(f"program: train.py\nmethod: grid\nparameters:\n{lines}")
        for command in (["check"], ["sweep", "--count", "0"]):
            done = run(*command, str(file))
            assert done.returncode == 2
            assert (
                f"the grid has {1000 ** len(names):,} configurations; at most 100,000 are"
                in done.stderr
            )


def test_an_unknown_metric(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("program: train.py\nmethod: grid\nmetric: {name: val_los}\n")
    with file.open("a") as more:
        more.write("parameters: {dropout: {values: [0.1]}}\n")
    done = run("check", file)
    assert (done.returncode, "did you mean val_loss" in done.stderr) == (2, True)


@pytest.mark.parametrize("file", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda f: f.stem)
def test_bundled_sweeps(file: Path, run: Run) -> None:
    done = run("check", file)
    said = " runs, " in done.stdout
    assert (done.returncode, said) == (1 if file.stem == "full" else 0, True), done.stderr
    if file.stem == "full":  # and its own comment says so
        assert "longest run nearly always wins" in done.stderr


def test_the_sweep_of_the_guide_and_its_repair(run: Run, tmp_path: Path) -> None:
    guide = (
        "method: bayes\nparameters:\n  learning_rate:\n    min: 0.0001\n    max: 0.01\n"
        "  model_dim:\n    values: [128, 256, 512]\n  num_layers:\n    values: [4, 6, 8, 12]\n"
    )
    file, mended = tmp_path / "sweep.yaml", tmp_path / "mended.yaml"
    file.write_text(START + guide)
    done = run("check", file, "--repaired", mended)
    assert done.returncode == 1
    assert "nine of ten draws lie above 0.0011" in done.stderr
    assert "never ends" in done.stderr
    assert run("check", mended).returncode == 0
    before = mended.read_text()
    assert run("check", file, "--repaired", mended).returncode == 2
    assert mended.read_text() == before


def test_a_sweep_of_another_program_is_repaired_for_wandb(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.py").write_text("import wandb\n")
    (tmp_path / "s.yaml").write_text(
        "program: t.py\nmethod: random\nparameters:\n  a: {min: 1e-5, max: 0.1}\n"
        "  ab: {min: 1, max: 9}\n  b: {min: 0, max: 0.5}\n  num_heads: {values: [3]}\n"
        "  model_dim: {values: [4, 3]}\n"
    )
    done = run("check", "s.yaml", "--repaired", "mended.yaml")
    assert done.returncode == 2
    assert [line[:16] for line in done.stderr.splitlines() if line.startswith("error")] == [
        "error: s.yaml:4:",
        "error: s.yaml:6:",
    ]
    assert "random without run_cap: it never ends" in done.stdout
    again = run("check", "mended.yaml")
    assert (again.returncode, again.stderr) == (0, "")
    mended = (tmp_path / "mended.yaml").read_text()
    assert "min: 0.0  # as W&B reads it" in mended
    assert "min: 0.00001" in mended
    assert "ab:\n    min: 1\n" in mended
    assert "num_heads:\n    values: [3]\n" in mended, "no rule of our trainer applies"


def test_cost(run: Run, tmp_path: Path, text_file: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        START
        + "method: grid\nparameters: {model_dim: {values: [64, 128]}, batch_size: {value: 8}, "
        "max_seq_len: {value: 64}, max_steps: {value: 20}, num_layers: {value: 2}}\n"
    )
    done = run("check", file, text_file, "--json")
    costs = json.loads(done.stdout)["costs"]
    assert costs["cheapest"]["settings"]["model_dim"] == 64
    assert 0 < costs["cheapest"]["minutes"] < 10
    assert costs["dearest"]["memory_gb"] > 0.01
    assert costs["hours"][0] <= costs["hours"][1]
    shown = run("check", file, text_file).stdout
    assert ("cheapest run (" in shown, "dearest run (" in shown) == (True, True)
    file.write_text(file.read_text().replace("[64, 128]", "[64]"))
    shown = run("check", file, text_file).stdout
    assert ("every run (" in shown, "dearest run (" in shown) == (True, False)


def test_cost_of_runs_that_cannot_be_tried(run: Run, tmp_path: Path, text_file: Path) -> None:
    """The longest sequences find no text, and time ends the rest; neither is lack of memory."""
    file = tmp_path / "s.yaml"
    file.write_text(
        START + "method: grid\nparameters: {max_seq_len: {values: [16, 32768]}, "
        "model_dim: {value: 16}, max_minutes: {value: 0.01}, epochs: {value: 100000}}\n"
    )
    done = run("check", file, text_file)
    assert done.returncode == 1
    cheapest, dearest = done.stdout.splitlines()[1:3]
    assert "max_seq_len 16" in cheapest
    assert "about 1 s" in cheapest
    assert "characters are too few for --max-seq-len 32768" in dearest
    assert "fit" not in done.stdout
    file.write_text(START + "method: grid\nparameters: {model_dim: {values: [62, 63]}}\n")
    none = run("check", file, text_file)
    assert (none.returncode, "100% of the configurations" in none.stderr) == (1, True)


@pytest.mark.nightly
def test_cost_assumes_the_concurrency_of_sweep(run: Run, tmp_path: Path, text_file: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        START + "method: grid\nparameters: {seed: {values: [1, 2, 3]}, max_steps: {value: 4}}\n"
    )
    small = ["--model-dim=16", "--num-layers=1", "--num-heads=2", "--max-seq-len=16"]
    for flags in ([], ["--workers=1"], ["--workers=2"]):
        told = run("check", "s.yaml", text_file, *flags, "--", *small).stdout
        done = run("sweep", "s.yaml", text_file, *flags, f"--output-dir=s{flags}", "--", *small)
        pattern = r"(\d+)(?: runs?)? at a time with (\d+) thread"
        assert re.findall(pattern, told) == re.findall(pattern, done.stdout)[:1], told + done.stderr
        costs = json.loads(run("check", "s.yaml", text_file, "--json", *flags, "--", *small).stdout)
        files = [f for f in (tmp_path / f"s{flags}").rglob("*") if f.is_file()]
        written = sum(file.stat().st_size for file in files)
        assert 0.5 < costs["costs"]["disk_gb"] * 1e9 / written < 2


def test_diagnostics_come_before_the_text_is_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(START + "method: random\nparameters: {seed: {value: 1}}\n")
    done = run("check", "s.yaml", "none.txt")
    assert done.returncode == 2
    first, last = done.stderr.splitlines()
    assert "never ends" in first
    assert "none.txt: no such file" in last


def test_costs_of_steps_of_a_range_and_of_shares_beyond_1(
    run: Run, tmp_path: Path, text_file: Path
) -> None:
    (tmp_path / "s.yaml").write_text(
        START + "method: random\nrun_cap: 3\nparameters:\n"
        "  batch_size: {distribution: q_uniform, min: 2, max: 8, q: 2}\n"
        "  dropout: {distribution: normal, mu: 0.2, sigma: 0.1}\n"
    )
    small = ["--model-dim=16", "--num-layers=1", "--num-heads=2", "--max-seq-len=16", "--epochs=1"]
    done = run("check", "s.yaml", text_file, "--", *small)
    assert "max_seq_len 16, batch_size 2, epochs 1): about" in done.stdout, done.stderr
    assert "max_seq_len 16, batch_size 8, epochs 1): about" in done.stdout


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ("num-heads: {values: [2, 3, 4]}, model_dim: {values: [64, 128]}", True),
        ("num_heads: {values: [2, 4]}, lr_schedule: {values: [constant, step]}", False),
        ("num_heads: {values: [3, 5]}, model_dim: {values: [64, 128]}", False),
    ],
)
def test_repair_drops_heads_only_where_that_helps(
    parameters: str, told: bool, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "s.yaml").write_text(START + f"method: grid\nparameters: {{{parameters}}}\n")
    done = run("check", "s.yaml", "--repaired", "new.yaml")
    assert ("--repaired FILE writes the sweep without them" in done.stderr) == told, done.stderr
    assert (tmp_path / "new.yaml").exists() == told
    if told:
        assert "num-heads:\n    values: [2, 4]" in (tmp_path / "new.yaml").read_text()


def test_a_huge_number_is_refused(run: Run, tmp_path: Path) -> None:
    text = (
        START + f"method: random\nrun_cap: 3\nparameters: {{seed: {{min: 1, max: 1{'0' * 400}}}}}\n"
    )
    (tmp_path / "s.yaml").write_text(text)
    done = run("check", "s.yaml")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "cannot be read" in done.stderr


def test_flags_for_every_run_are_checked(run: Run, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(START + "method: grid\nparameters: {seed: {values: [1, 2]}}\n")
    for flags in (["--preset", "fsat"], ["--device", "gpu"]):
        done = run("check", "s.yaml", "--", *flags)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert flags[1] in done.stderr


def test_one_mistake_hides_nothing_else(run: Run, tmp_path: Path) -> None:
    """Mistakes in the file, in our hyperparameters and in its command; warnings of each kind."""
    (tmp_path / "s.yaml").write_text(
        "program: train.py\nmethod: random\ncount: 4\nmetric: {name: val_los}\n"
        "command: [python, '${program}', --no-such-flag, 'seed=${seed}']\nparameters:\n"
        "  learnin_rate: {distribution: log_uniform, min: -9, max: -2}\n"
        "  dropout: {values: [0.1, 0.9, 2, x]}\n  patience: {values: [1, 2]}\n"
        "  num_layers: {values: [1.5, 2.5]}\n  batch_size: {min: 9, max: 1}\n"
        "  weight_decay: {min: 0.0001, max: 0.1}\n  seed: {min: 1, max: 9}\n"
    )
    done = run("check", "s.yaml")
    assert done.returncode == 2
    lines = [" ".join(line.split(": ")[:3]) for line in done.stderr.splitlines()]
    at = "parameters."
    assert lines == [
        "warning s.yaml:2 method",
        "warning s.yaml:3 count",
        "error s.yaml:4 metric.name",
        "error s.yaml:5 command",
        "warning s.yaml:5 command[3]",
        f"warning s.yaml:7 {at}learnin_rate",
        f"error s.yaml:7 {at}learnin_rate",
        f"warning s.yaml:8 {at}dropout.values[1]",
        f"error s.yaml:8 {at}dropout.values[2]",
        f"error s.yaml:8 {at}dropout.values[3]",
        f"warning s.yaml:9 {at}patience",
        f"error s.yaml:10 {at}num_layers.values[0]",
        f"error s.yaml:10 {at}num_layers.values[1]",
        f"error s.yaml:11 {at}batch_size.min",
        f"warning s.yaml:12 {at}weight_decay",
        f"warning s.yaml:13 {at}seed",
    ], done.stderr
    swept = run("sweep", "s.yaml")
    assert (swept.returncode, swept.stderr) == (2, done.stderr)
    assert not (tmp_path / "runs").exists()


def test_sweep_prints_what_check_prints(run: Run, tmp_path: Path, text_file: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        START + "method: random\nrun_cap: 2\nparameters: {weight_decay: {min: 0.001, max: 0.2}}\n"
    )
    checked = run("check", "s.yaml")
    assert (checked.returncode, checked.stderr.count("\n")) == (1, 1)
    swept = run("sweep", "s.yaml", text_file, "--count", 0)
    assert (swept.returncode, swept.stderr) == (0, checked.stderr)
