"""Hyperparameters as options: their flags and spellings."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields

import pytest
from conftest import ROOT

from fundamentallm.cli.main import cli
from fundamentallm.config.hyperparameters import HYPERPARAMETERS, Config


def parsed(arguments: list[str]) -> dict[str, object]:
    """Return the values of `fundamentallm train ARGUMENTS`; a repeated flag's last one."""
    root = cli.make_context("fundamentallm", ["train"])
    context = cli.commands["train"].make_context("train", list(arguments), parent=root)
    return {
        name: given if not isinstance(given, tuple) else given[-1] if given else None
        for name, given in context.params.items()
    }


def test_help_config_and_docs_have_the_same_flags() -> None:
    done = subprocess.run(
        [sys.executable, "train.py", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    page = (ROOT / "docs/hyperparameters.md").read_text("utf-8")
    shown = re.findall(r"^  (--[\w-]+)", done.stdout.partition("Options:")[0], flags=re.M)
    listed = re.findall(r"^\| `(--[\w-]+)` \|", page, flags=re.M)
    names = [field.name for field in fields(Config)]
    assert [HYPERPARAMETERS[name].flag for name in names] == shown == listed


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["--learning-rate", "3e-4"], "learning_rate", 3e-4),
        (["--learning_rate=3e-4"], "learning_rate", 3e-4),
        (["--batch_size=64.0"], "batch_size", 64),
        (["--early-stopping"], "early_stopping", True),
        (["--no-early-stopping"], "early_stopping", False),
        (["--no_early_stopping"], "early_stopping", False),
        (["--early_stopping=True"], "early_stopping", True),
        (["--early-stopping=False"], "early_stopping", False),
        (["--early-stopping", "false"], "early_stopping", False),
        (["--mixed-precision", "data.txt"], "data", "data.txt"),
        (["--compile", "data.txt"], "compile", "true"),
        (["--compile", "auto", "data.txt"], "compile", "auto"),
        (["--no-compile"], "compile", "false"),
        (["--compile=off"], "compile", "false"),
        (["--mixed-precision", "data.txt"], "mixed_precision", True),
        (["data.txt", "--compile", "--epochs", "5"], "epochs", 5),
        (["--lr-steps", "10000,20000"], "lr_steps", "10000,20000"),
        (["--", "--odd.txt"], "data", "--odd.txt"),
        (["--epochs", "3", "--epochs", "5"], "epochs", 5),
        ([], "learning_rate", None),
    ],
)
def test_spellings(arguments: list[str], name: str, value: object) -> None:
    assert parsed(arguments)[name] == value
