"""Short forms of fuzz.py: every input and every folder works or gets one clear error line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest
from conftest import ROOT, nightly
from fuzz import READERS, feed


@pytest.mark.parametrize("name", READERS)
def test_no_input_breaks_a_reader(name: str) -> None:
    fed, refused, _ = feed(name, 300)
    assert fed >= 100
    assert 0 < refused < fed or name == "metrics.jsonl"


@pytest.mark.parametrize("folders", [pytest.param(25, marks=pytest.mark.slow), nightly(20_000)])
def test_no_folder_breaks_a_command(folders: int, ordinary_user: Sequence[str]) -> None:
    fuzz = [sys.executable, ROOT / "tests/faults/fuzz.py", f"--folders={folders}"]
    done = subprocess.run([*ordinary_user, *fuzz], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"| {folders:,} | 0 |" in done.stdout
