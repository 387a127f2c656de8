"""A sweep of another program is checked without running it: its start, and how it gets values."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fundamentallm.sweep.check.program import check_program
from fundamentallm.sweep.check.warnings import check_any, size
from fundamentallm.sweep.file.sweep_file import examine_sweep
from fundamentallm.sweep.search.space import SearchSpace

READS_CONFIG = "import wandb\n\nwandb.init()\n"
COMMAND = ["${env}", "${interpreter}", "${program}", "${args}"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with a program t.py and the file of a sweep elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin")
    (tmp_path / "t.py").write_text(READS_CONFIG)
    return tmp_path


def found(*, starting: bool = True, **fields: Any) -> list[str]:
    """Return the diagnostics of a sweep with these fields, as `LEVEL KEY: MESSAGE`."""
    content = {"program": "t.py", "method": "grid", "parameters": {"x": {"values": [1, 2]}}}
    content = {name: value for name, value in (content | fields).items() if value is not None}
    file = Path("sweep.yaml")
    file.write_text(json.dumps(content))
    sweep = examine_sweep(file)
    check_any(sweep, sweep.diagnostics)
    check_program(sweep, sweep.diagnostics, starting=starting)
    return [f"{each.level} {each.key}: {each.message}" for each in sweep.diagnostics.sorted()]


def test_a_sound_sweep_has_no_diagnostic() -> None:
    assert found() == []
    assert found(command=["uv", "run", "-m", "somewhere.installed", "${args}"]) == [
        "error command[0]: uv is not on your PATH; give the path of a program, or install it"
    ]
    assert found(command=[sys.executable, "-m", "somewhere.installed", "${args}"]) == []
    assert found(command=["/usr/bin/env", "-u", "HOME", "A=1", "python", "t.py", "${args}"]) == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"program": "u.py"}, "program: u.py does not exist in the current folder; change to its"),
        (
            {"program": "t.py --fast"},
            "program: t.py --fast does not exist in the current folder; give the script alone, and "
            "its flags in command",
        ),
        ({"program": "train.py"}, "to train fundamentallm's own model, set command: ["),
        (
            {"command": ["python", "lib/u.py", "${args}"], "program": None},
            "command[1]: lib/u.py does not exist in the current folder",
        ),
        (
            {"command": ["bash", "wrap.sh", "${program}"]},
            "command[1]: wrap.sh does not exist in the current folder",
        ),
        (
            {"command": ["${env}", "pythom", "${program}", "${args}"]},
            "command[1]: pythom is not on your PATH; give the path of a program, or install it",
        ),
        (
            {"command": ["python t.py", "${args}"]},
            "command[0]: python t.py is not on your PATH; it is one word; give each word",
        ),
        (
            {"command": ["${program}", "${args}"]},
            "command[0]: t.py is not on your PATH; write ./t.py, or put a program before it",
        ),
        (
            {"command": ["${program}", "${args}"], "program": "./t.py"},
            "command[0]: ./t.py is not executable; run chmod +x ./t.py, or put a program before it",
        ),
        (
            {"command": ["./bin/python", "t.py", "${args}"]},
            "command[0]: ./bin/python does not exist; give the path of a program, or install it",
        ),
        (
            {"program": None},
            "program: is missing, so only Python can start this sweep: fundamentallm.run_sweep",
        ),
        (
            {"program": None, "job": "me/p/job-x:latest"},
            "program: is missing: W&B Launch starts me/p/job-x:latest; to run it here, give",
        ),
    ],
)
def test_what_cannot_start_is_an_error_only_where_it_is_to_start(
    fields: dict[str, Any], says: str
) -> None:
    for starting, level in ((True, "error"), (False, "warning")):
        (line,) = [x for x in found(starting=starting, **fields) if "job: is for" not in x]
        assert line.startswith(level)
        assert says in line


def test_a_program_beside_the_file_is_not_where_the_agent_looks(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/s.yaml").write_text("program: v.py\nmethod: grid\nparameters: {x: {value: 1}}\n")
    (folder / "sub/v.py").write_text(READS_CONFIG)
    sweep = examine_sweep(folder / "sub/s.yaml")
    check_program(sweep, sweep.diagnostics, starting=True)
    (error,) = sweep.diagnostics.errors
    assert error.message == (
        f"v.py does not exist in the current folder, from which W&B's agent starts it too; change "
        f"to {folder / 'sub'} first"
    )


def test_a_program_on_the_path_and_one_that_is_executable(folder: Path) -> None:
    (folder / "bin").mkdir()
    for path in (folder / "bin/fit", folder / "go.sh", folder / "bin/fit.sh"):
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    assert found(command=["fit", "${args}"]) == []
    assert found(command=["fit.sh", "${args}"]) == []
    assert found(command=["${env}", "./go.sh", "${args}"]) == []
    assert found(command=["${program}", "${args}"], program="./go.sh") == []


def test_the_value_of_a_variable_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "secret")
    lines = found(command=["${envvar:WHERE}/python", "${envvar:WHERE}/t.py", "${args}"])
    lines += found(command=["python", "${envvar:WHERE}/t.py", "${args}"])
    assert len(lines) == 3
    assert all("${envvar:WHERE}/" in line and "secret" not in line for line in lines)


def test_python_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    assert found() == [
        "error program: python is not on your PATH; activate an environment, or give command: "
        '[python3, "${program}", "${args}"]'
    ]


def test_what_wandb_refuses_is_an_error(folder: Path) -> None:
    file = folder / "s.yaml"
    file.write_text(
        "program: t.py\nmethod: random\nrun_cap: 2\nmetric: {name: a}\n"
        "early_terminate: {type: hyperband, min_iter: 1, max_iter: 9}\n"
        "parameters:\n  a: {min: 1e-5, max: 0.1}\n  b: {min: 0, max: 0.5}\n  c: {values: [1e-3]}\n"
    )
    sweep = examine_sweep(file)
    before = [each.line for each in sweep.diagnostics.errors]
    check_program(sweep, sweep.diagnostics, starting=False)
    assert before == [5, 8]
    assert [each.line for each in sweep.diagnostics.errors] == [5, 7, 8]
    assert all(each.is_unambiguous for each in sweep.diagnostics.errors)
    (text,) = sweep.diagnostics.warnings
    assert "1e-3 is text in YAML, and in W&B; read as the number 0.001 here" in text.message


def test_commands_that_no_program_can_receive() -> None:
    assert found(command=["${args_no_boolean_flags}"]) == [
        "error command[0]: ${args_no_boolean_flags} is not a program, but a command starts with "
        'one: ["${interpreter}", "${program}", "${args_no_boolean_flags}"]'
    ]
    lines = found(command=["${nonsense}"])
    assert lines == [
        "error command: has no word that W&B does not drop; give a program",
        "warning command[0]: W&B drops ${nonsense}",
    ]
    (line,) = found(command=[*COMMAND, "a\0b"])
    assert line.startswith("error command[4]: holds a NUL byte")
    (line,) = found(parameters={"x": {"values": ["a", "b\0"]}})
    assert line.startswith("error parameters.x.values: holds a NUL byte")


def test_flags_that_are_given_wrongly() -> None:
    (line,) = found(command=[*COMMAND, "--size=256 --epochs=15"])
    assert line == (
        "warning command[4]: '--size=256 --epochs=15' is one word for the program; give each flag "
        "an entry of its own"
    )
    for command, name in (
        ([*COMMAND, "--x", 3], "--x"),
        ([*COMMAND, "--x=3"], "--x"),
        (["python", "t.py", "+x=3", "${args_append_hydra}"], "+x"),
    ):
        (line,) = found(command=command)
        assert f"{name} is also a parameter, so the program gets it twice" in line
    assert found(command=["python", "t.py", "--x=3", "${args_no_hyphens}"]) == []


def test_a_huge_grid_is_refused() -> None:
    axes = {name: {"min": 1, "max": 1000} for name in "ab"}
    (line,) = found(parameters=axes)
    assert line.startswith("error parameters: the grid has 1,000,000 configurations")


def test_the_number_of_runs_without_our_rules(folder: Path) -> None:
    file = folder / "s.yaml"
    file.write_text(
        "program: t.py\nmethod: grid\nparameters:\n  model_dim: {values: [64, 65]}\n"
        "  num_heads: {values: [2, 64, a]}\n"
    )
    space = SearchSpace(examine_sweep(file), {}, is_ours=False)
    assert size(space) == (6, "6 runs, a grid of 2 x 3")


# --- What the source proves ---


@pytest.mark.parametrize(
    ("source", "module", "is_told"),
    [
        ("import argparse, torch, numpy.random\n", "", True),
        ("from lib.fit import main\n", "import math\n", True),
        ("from .lib import fit\n", "import math\n", True),
        ("import lib.fit\n", "from .. import lib\nfrom ..lib.fit import x\n", True),
        (READS_CONFIG, "", False),
        (
            "from lib.fit import main\n",
            "import os\n\nos.environ['WANDB_SWEEP_PARAM_PATH']\n",
            False,
        ),
        ("import lightning\n", "", False),
        ("import lib.fit\n", "import lightning\n", False),
        ("import missing\n", "", False),
        ("import subprocess\n", "", False),
        ("no python (", "", False),
    ],
)
def test_a_program_that_gets_no_values(
    source: str, module: str, is_told: bool, folder: Path
) -> None:
    (folder / "lib").mkdir()
    (folder / "lib/__init__.py").write_text("")
    (folder / "lib/fit.py").write_text(module)
    (folder / "t.py").write_text(source)
    lines = found(command=["python", "${program}", "--lr=0.1", "x=${args}"])
    says = "warning command: passes no values to t.py, which does not use wandb either, so all"
    assert any(line.startswith(says) for line in lines) == is_told
    assert not any("no values" in line for line in found())
    assert not any(
        "no values" in line for line in found(command=["python", "t.py", "${args_json}"])
    )


@pytest.mark.parametrize(
    ("option", "macro", "says"),
    [
        ('"--x", action="store_true"', "${args}", "without a value (store_true), but ${args} pass"),
        ("'-x', '--x', action='store_false'", "${args_no_equals}", "without a value (store_false)"),
        ('"--x", action="store_true"', "${args_no_boolean_flags}", ""),
        ('"--x", type=bool, default=True', "${args}", "reads --x=False as true (type=bool)"),
        ('"--x", type=bool', "${args_no_boolean_flags}", "only with a value (type=bool)"),
        ('"--x", type=str2bool', "${args}", ""),
        ('"--y", action="store_true"', "${args}", ""),
        ('*NAMES, action="store_true"', "${args}", ""),
    ],
)
def test_true_and_false_as_argparse_reads_them(
    option: str, macro: str, says: str, folder: Path
) -> None:
    (folder / "t.py").write_text(f"parser.add_argument({option})\n")
    truths = {"x": {"values": [True, False]}, "z": {"value": 1}}
    lines = found(command=["python", "t.py", macro], parameters=truths)
    assert len(lines) == bool(says)
    assert says in "".join(lines)
    assert found(command=["python", "t.py", macro]) == [], "x is a number"


def test_a_program_of_hydra_takes_no_hyphens(folder: Path) -> None:
    (folder / "t.py").write_text(
        "import hydra\n\n\n@hydra.main(config_path='conf')\ndef main(cfg):\n    pass\n"
    )
    assert found() == [
        "warning program: t.py uses Hydra, which reads name=value; write ${args_no_hyphens} in "
        "place of ${args}"
    ]
    assert found(command=["python", "t.py", "${args_override_hydra}"]) == []


def test_the_source_of_a_module(folder: Path) -> None:
    (folder / "pkg").mkdir()
    (folder / "pkg/fit.py").write_text("import argparse\n")
    (folder / "pkg/__main__.py").write_text("import argparse\n")
    for command, name in (
        (["python", "-m", "pkg.fit"], "fit.py"),
        (["accelerate", "launch", "--module", "pkg"], "__main__.py"),
        (["python", "-m", "torch.distributed.run", "pkg/fit.py"], "fit.py"),
    ):
        lines = found(command=[sys.executable, *command[1:]], starting=False)
        assert any(f"passes no values to {name}" in line for line in lines), command
    assert any(
        "passes no values to fit.py" in line
        for line in found(command=["python", "-m", "${program}"], program="pkg.fit")
    )


@pytest.mark.parametrize(
    ("logs", "near"),
    [
        ("wandb.log({'val/loss': 1})", "'val/loss'"),
        ("wandb.log({'val_loss ': 1})", "'val_loss '"),
        ("wandb.log({'Val_Loss': 1})", "'Val_Loss'"),
        ("wandb.log({'val/loss': 1, 'val_loss': 2})", ""),
        ("wandb.log({'val/loss': 1, f'{part}_loss': 2})", ""),
        ("wandb.log({'val/loss': 1, part + '_loss': 2})", ""),
        ("wandb.log({'val/loss': 1, '%s_loss' % part: 2})", ""),
        ("title = 'Val Loss'", ""),
        ("wandb.log({'loss': 1})", ""),
        ("import transformers; best = 'val/loss'", ""),
    ],
)
def test_the_metric_in_another_spelling(logs: str, near: str, folder: Path) -> None:
    (folder / "t.py").write_text(f"{READS_CONFIG}\n{logs}\n")
    lines = found(metric={"name": "val_loss", "goal": "minimize"})
    says = f"warning metric.name: t.py has the name {near}, but not 'val_loss'; write it alike"
    assert lines == ([says] if near else [])
