"""`check --ask-program` compares the parameters with what a program's own help names."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from tiny_sweep import processes, wait_for

from fundamentallm.sweep.check import program_help
from fundamentallm.sweep.check.program_help import ask_program
from fundamentallm.sweep.file.sweep_file import examine_sweep

ARGPARSE = """
import argparse, os, sys
parser = argparse.ArgumentParser()
parser.add_argument("--learning-rate", "--lr", type=float)
parser.add_argument("--batch_size", type=int, help="at most --most")
parser.add_argument("--hidden.width")
print("disabled" == os.environ["WANDB_MODE"], sys.argv[1:], file=sys.stderr)
parser.parse_args()
"""
CLICK = """
import click

@click.group()
def cli(): pass

@cli.command()
@click.option("--batch-size", default=1)
@click.option("--amp/--no-amp")
def fit(batch_size, amp): pass

cli()
"""
ABSL = """
import sys
if "--helpfull" in sys.argv:
    print("flags:\\n\\nt.py:\\n  --learning_rate: rate\\n\\nlib:\\n  --[no]amp: a")
else:
    print("flags:\\n\\nt.py:\\n  --learning_rate: rate\\n\\nTry --helpfull to get all flags.")
sys.exit(1)
"""
"""Prints what a program of absl 2.5 does."""
HYDRA = '''
import sys
config = """model:
  width: 3
lr: 0.1
optim:
  name: ${oc.env:HOME}
  betas:
  - 0.9
"""
if sys.argv[1:] == ["--cfg", "job"]:
    print(config)
else:
    print(HELP)
    print("\\nPowered by Hydra (https://hydra.cc)\\nUse --hydra-help to view Hydra specific help")
'''
"""Prints what a program of Hydra 1.3 does."""
HYDRA_HELP = """'''t is powered by Hydra.

== Configuration groups ==
Compose your configuration from those groups (group=option)

data/text: a, b
model: mlp


== Config ==
Override anything in the config (foo.bar=value)

''' + config"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(program: str, *parameters: str, command: tuple[str, ...] = ("${args}",)) -> list[str]:
    """Return the warnings about a program's sweep, after it was asked."""
    Path("t.py").write_text(program)
    nested: dict[str, Any] = {
        name: {"parameters": {inner: {"value": 1}}} if inner else {"value": 1}
        for name, _, inner in (each.partition(">") for each in parameters)
    }
    words = [sys.executable, "${program}", *command]
    content = {"program": "t.py", "method": "grid", "parameters": nested, "command": words}
    Path("s.yaml").write_text(json.dumps(content))
    sweep = examine_sweep("s.yaml")
    before = len(sweep.diagnostics.found)
    ask_program(sweep, sweep.diagnostics)
    return [f"{each.key}: {each.message}" for each in sweep.diagnostics.found[before:]]


def test_a_program_of_argparse() -> None:
    assert asked(ARGPARSE, "lr", "learning-rate", "batch_size", "batch", "hidden.width") == []
    assert asked(ARGPARSE, "learning_rate", "batch_sise", "other", "hidden>width") == [
        "parameters.batch_sise: t.py --help does not name --batch_sise; did you mean --batch_size?",
        "parameters.hidden.parameters.width: t.py --help names --hidden.width, but nested "
        "parameters are passed as one mapping, --hidden={...}; write hidden.width as the whole "
        "name of the parameter",
        "parameters.learning_rate: t.py --help does not name --learning_rate; did you mean "
        "--learning-rate?",
        "parameters.other: t.py --help does not name --other",
    ]


def test_a_program_of_click_with_a_subcommand() -> None:
    """Words after the program and before the values belong to the question."""
    command = ("fit", "${args_no_boolean_flags}")
    assert asked(CLICK, "batch-size", "amp", "no-amp", command=command) == []
    assert asked(CLICK, "batch_size", "batch", command=command) == [
        "parameters.batch: t.py --help does not name --batch; did you mean --batch-size?",
        "parameters.batch_size: t.py --help does not name --batch_size; did you mean --batch-size?",
    ]


def test_a_program_of_absl_is_asked_for_all_flags() -> None:
    assert asked(ABSL, "learning_rate", "amp") == []
    assert asked(ABSL, "learning-rate") == [
        "parameters.learning-rate: t.py --help does not name --learning-rate; did you mean "
        "--learning_rate?"
    ]


@pytest.mark.parametrize("text", [HYDRA_HELP, "'== My App =='"])
def test_a_program_of_hydra(text: str) -> None:
    """The second text is a help of the program's own, so its config is asked for."""
    program = HYDRA.replace("HELP", text)
    pairs = ("${args_no_hyphens}",)
    known = ("lr", "optim.name", "model", "+new", "++lr", "hydra.run.dir")
    assert asked(program, *known, command=pairs) == []
    assert asked(program, "optim.nme", "width", "+lr", command=pairs) == [
        "parameters.+lr: t.py --help names lr, so +lr fails; write ${args_override_hydra}",
        "parameters.optim.nme: t.py --help does not name optim.nme; did you mean optim.name?",
        "parameters.width: t.py --help does not name width; did you mean model.width?",
    ]
    assert asked(program, "new", command=("${args_append_hydra}",)) == []
    assert asked(program, "lr", command=("${args_append_hydra}",)) == [
        "parameters.lr: t.py --help names lr, so +lr fails; write ${args_override_hydra}"
    ]
    assert asked(program, "anything", command=("${args_override_hydra}",)) == []
    groups = asked(program, "data/text", command=pairs)
    assert (groups == []) == (text == HYDRA_HELP)


@pytest.mark.parametrize(
    ("program", "command", "says"),
    [
        ("import nowhere_to_be_found\n", ("${args}",), "failed with exit code 1: ModuleNotFound"),
        (
            "raise SystemExit(3)  # argv",
            ("${args}",),
            "failed with exit code 3: it printed nothing",
        ),
        (
            "print('hello')  # argv",
            ("${args}",),
            "names no options, so the parameters are not compared",
        ),
        (ARGPARSE, ("${args_no_hyphens}",), "shows no config of Hydra, so the parameters are not"),
        (
            "print('Use --hydra-help')  # argv",
            ("${args_no_hyphens}",),
            "shows no config, so the parameters are not compared",
        ),
    ],
)
def test_a_program_that_prints_no_help(program: str, command: tuple[str, ...], says: str) -> None:
    (line,) = asked(program, "x", command=command)
    assert line.startswith(f"command: t.py --help {says}")


def test_a_secret_that_the_program_repeats_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "hunter2")
    command = ("--key=${envvar:API_KEY}", "${args}")
    (line,) = asked("import sys\nsys.exit('unknown: ' + sys.argv[1])", "x", command=command)
    assert line.endswith("failed with exit code 1: unknown: --key=${envvar:API_KEY}")


def test_a_macro_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALUES", "${args}")
    assert asked(ARGPARSE, "lr", command=("${envvar:VALUES}",)) == []


def test_a_command_that_passes_no_flags_is_not_asked() -> None:
    program = "open('started', 'w')"
    assert asked(program, "x", command=("${args_json}",)) == [
        "command: passes no flags, so --ask-program has nothing to compare"
    ]
    assert not Path("started").exists()


@pytest.mark.parametrize(
    ("imports", "is_asked"),
    [
        ("wandb, torch, lightning, os", False),
        ("argparse", True),
        ("sys\nsys.argv", True),
        ("somebody.cli", True),
        ("mine", False),
        ("mine\nimport click", True),
    ],
)
def test_a_program_that_reads_no_arguments_would_train_instead(
    imports: str, is_asked: bool, folder: Path
) -> None:
    (folder / "mine.py").write_text("import wandb\n")
    program = f"open('started', 'w')\nraise SystemExit(1)\nimport {imports}\n"
    (line,) = asked(program, "x")
    assert Path("started").exists() == is_asked
    assert ("reads no arguments, so it was not asked" in line) == (not is_asked)


def test_a_program_that_does_not_end_is_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Children die with it, and it gets no input that it could wait for."""
    monkeypatch.setattr(program_help, "SECONDS", 1.0)
    source = "import subprocess, sys, time\nprint(sys.stdin.read(), '--x')\n"
    source += "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
    (line,) = asked(source + "time.sleep(1000)", "x")
    assert line == "command: t.py --help did not end in 1 s"
    wait_for(lambda: set(processes(str(folder))) <= {os.getpid()})


def test_the_command_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "t.py").write_text(ARGPARSE)
    text = (
        f'program: t.py\nmethod: grid\ncommand: [{sys.executable}, "${{program}}", "${{args}}"]\n'
    )
    (tmp_path / "s.yaml").write_text(text + "parameters: {leaning-rate: {values: [1, 2]}}\n")
    assert run("check", "s.yaml").returncode == 0
    done = run("check", "s.yaml", "--ask-program")
    assert (done.returncode, done.stdout.splitlines()[1:]) == (1, ["s.yaml: 2 runs, a grid of 2"])
    assert "did you mean --learning-rate?" in done.stderr
    (tmp_path / "t.py").unlink()
    missing = run("check", "s.yaml", "--ask-program")
    assert missing.returncode == 2
    assert len(missing.stderr.splitlines()) == 1
    (tmp_path / "s.yaml").write_text("command: [fundamentallm, train]\n" + text.split("\n")[1])
    ours = run("check", "s.yaml", "--ask-program")
    assert (ours.returncode, "starts fundamentallm train itself" in ours.stderr) == (2, True)
