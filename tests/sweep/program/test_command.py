"""Commands of runs are those of `wandb agent`, compared with the client's own functions."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.schema import MACROS
from fundamentallm.sweep.file.sweep_file import SweepFile, parse_sweep
from fundamentallm.sweep.program.command import (
    command_line,
    dry_run_lines,
    expand,
    json_text,
    shown,
)
from fundamentallm.sweep.search.base import RandomSearch, grid_search

FILE = "wandb/sweep-s/config-r.json"
VALUES: list[Any] = [
    "adam", "two words", "", "é \N{GREEK SMALL LETTER ALPHA}", 'quotes "\'', "a=b", "--x",
    "${args}", "line\nbreak", "1e-05", 1e-05, 0.1, 3.0, 1e22, -7, 10**20, True, False, None,
    [1, "a", None], [], {"name": "adam", "betas": [0.9, 0.99]}, {},
]  # fmt: skip
"""Values as YAML gives them."""


def sweep_of(command: object, program: str = "train.py") -> SweepFile:
    """Return a sweep whose file has this command."""
    content = {"program": program, "method": "grid", "parameters": {"x": {"value": 1}}}
    content |= {"command": command} if command is not None else {}
    return parse_sweep(json.dumps(content), "s.yaml")


def of_client(sweep: SweepFile, nested: dict[str, Any]) -> list[str]:
    """Return the words that W&B's agent would start, by the client's own functions."""
    words = create_sweep_command(deepcopy(sweep.content.get("command")))
    macros: dict[str, Any] = create_sweep_command_args(
        {"args": {name: {"value": value} for name, value in nested.items()}}
    )
    del macros["args_dict"]  # for the client's own use
    macros |= {
        "interpreter": ["python"],
        "program": [sweep.program],
        "args_json_file": [FILE],
        "env": ["/usr/bin/env"],
    }
    started: list[str] = []
    for word in map(str, words):
        started += macros.get(word[2:-1], []) if word[:2] + word[-1:] == "${}" else [word]
    return started


COMMANDS = [
    None,
    [],
    ["${program}", "${args}"],
    ["${env}", "A=1", "${interpreter}", "-u", "${program}", "${args_no_equals}"],
    ["uv", "run", "python", "-m", "pkg.train", "${args_no_hyphens}", "seed=1"],
    ["accelerate", "launch", "--num_processes", 2, "--lr", 0.5, "--flag", True, "${program}"],
    ["python", "x.py", "${args_no_boolean_flags}", "${args_append_hydra}"],
    ["python", "x.py", "${args_override_hydra}", "${args_json}", "--file", "${args_json_file}"],
    ["python", "x.py", "${nonsense}", "a${args}", "${args}b", "${args}${program}", "${}", "$", ""],
    ["${envvar:TOOL}", "--home=${envvar:PLACE}/${envvar:PLACE}", "${envvar:UNSET}", "x"],
    ["${envvar:MACRO}", "${envvar:lower}", "${envvar:TOOL} ${envvar:PLACE}"],
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_same_words_as_the_client(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TOOL", "tool"), ("PLACE", "/a b"), ("MACRO", "${args}")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("UNSET", raising=False)
    sweep = sweep_of(command)
    nested = {f"p{i}": value for i, value in enumerate(VALUES)} | {"a.b-c": 2, "with space": 3}
    assert expand(sweep, nested, FILE) == of_client(sweep, nested)


WORDS = st.sampled_from([*(f"${{{name}}}" for name in MACROS), "${envvar:HOME}", "${envvar:NO_1}"])
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(
    command=st.lists(WORDS | st.text() | st.integers() | st.floats(allow_nan=False), min_size=1),
    nested=st.dictionaries(st.text(min_size=1), NESTED),
)
def test_any_command_and_values(command: list[Any], nested: dict[str, Any]) -> None:
    content = {"program": "p.py", "command": command}
    sweep = SweepFile(
        file="s", text="", content=content, method="grid", parameters=(), metric=None,
        hyperband=None, run_cap=None, name="s", program="p.py", command=tuple(map(str, command)),
        diagnostics=sweep_of(None).diagnostics,
    )  # fmt: skip
    expected = of_client(sweep, nested)
    try:
        words = expand(sweep, nested, FILE)
    except SweepError:
        assert not expected or "\0" in "".join(expected)
    else:
        assert words == expected


def test_nested_parameters_are_one_argument_sorted() -> None:
    text = """
program: train.py
method: grid
parameters:
  z: {value: 1}
  optimizer: {parameters: {name: {value: adam}, lr: {value: 1.0e-5}}}
  a: {values: [{k: [1, two]}]}
"""
    sweep = parse_sweep(text, "s.yaml")
    values = {"optimizer.lr": 1e-05, "optimizer.name": "adam", "z": 1, "a": {"k": [1]}}
    nested = sweep.nested(values)
    assert expand(sweep, nested, FILE) == [
        "/usr/bin/env", "python", "train.py", "--a={'k': [1]}",
        "--optimizer={'lr': 1e-05, 'name': 'adam'}", "--z=1",
    ]  # fmt: skip
    assert json.loads(json_text(nested)) == nested


def test_a_program_gets_exactly_these_words(tmp_path: Path) -> None:
    """No shell changes them, whatever they hold."""
    program = tmp_path / "p.py"
    program.write_text("import sys, json; print(json.dumps(sys.argv[1:]))")
    nested = {f"p{i}": value for i, value in enumerate([*VALUES, "$HOME `ls` ; *"])}
    words = expand(sweep_of([sys.executable, "${program}", "${args}"], str(program)), nested, FILE)
    done = subprocess.run(words, capture_output=True, check=True)
    assert json.loads(done.stdout) == [f"--{name}={value}" for name, value in nested.items()]


@pytest.mark.parametrize(
    ("command", "value", "says"),
    [
        (["${nonsense}"], 1, "s.yaml: command: is empty once its macros are replaced"),
        (["p", "${args}"], "a\0b", r"'--x=a\x00b' holds a NUL byte, which no program can receive"),
        (["p", "${args_no_hyphens}"], "\ud800", "holds a character that no program can receive"),
    ],
)
def test_what_no_program_can_receive(command: list[str], value: Any, says: str) -> None:
    with pytest.raises(SweepError) as error:
        expand(sweep_of(command), {"x": value}, FILE)
    assert says in str(error.value)


def test_an_error_has_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "hunter2")
    with pytest.raises(SweepError) as error:
        expand(sweep_of(["p", "--key=${envvar:API_KEY}\0"]), {}, FILE)
    assert "--key=${envvar:API_KEY}" in str(error.value)
    assert "hunter2" not in str(error.value)


def test_a_line_for_people_has_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "hunter2")
    command = ["${env}", "--key=${envvar:API_KEY}", "${envvar:API_KEY}", "${program}", "${args}"]
    sweep = sweep_of([*command, "${nonsense}"], "my train.py")
    line = shown(sweep, {"x": "a b", "y": None}, FILE)
    assert line == (
        "/usr/bin/env '--key=${envvar:API_KEY}' '${envvar:API_KEY}' 'my train.py' "
        "'--x=a b' --y=None"
    )
    assert shlex.split(line)[-2:] == ["--x=a b", "--y=None"]
    assert "\n" not in shown(sweep, {"x": "a\nb"}, FILE)
    assert command_line(sweep).endswith("'my train.py' ${args} ${nonsense}")
    assert "hunter2" in expand(sweep, {}, FILE)
    assert "hunter2" not in line + command_line(sweep)


def test_the_first_commands() -> None:
    sweep = parse_sweep(
        "program: t.py\nmethod: grid\nparameters: {a: {values: [1, 2]}, b: {values: [x, y]}}\n"
        "command: [python, '${program}', '${args}', '${args_json_file}']\n",
        "s.yaml",
    )
    search, _ = grid_search(sweep.parameters, is_possible=lambda values: True)
    assert list(dry_run_lines(sweep, search, "run-{}.json".format, 3)) == [
        "python t.py --a=1 --b=x run-0.json",
        "python t.py --a=1 --b=y run-1.json",
        "python t.py --a=2 --b=x run-2.json",
    ]
    assert len(list(dry_run_lines(sweep, search, str, 9))) == 4
    draws = RandomSearch(sweep.parameters, seed=0, is_possible=lambda values: True)
    lines = list(dry_run_lines(sweep, draws, lambda k: "f", 9))
    assert len(set(lines)) == len(lines) == 4, "random draws repeat no run"
