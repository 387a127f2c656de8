"""The Python file of a search on W&B: `check` finds that it, or a function in it, is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from fundamentallm.sweep.check.search_source import LARGEST, check_search_source
from fundamentallm.sweep.file.sweep_file import examine_mapping

LINE = "from fundamentallm.hosted_search import bayes, configuration\n"
HINT = f"; for our bayes search it needs one line: {LINE.strip()}"


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def found(source: str | None, **functions: str) -> list[str]:
    """Return the warnings about a sweep whose search.py has this content."""
    if source is not None:
        Path("search.py").write_text(source)
    functions = functions or {"optimizer": "bayes", "search_space": "configuration"}
    config = {
        "method": "custom",
        "metric": {"name": "a"},
        "parameters": {"x": {"values": [1, 2]}},
        "scheduler": {"engine": "optuna", "source": "search.py", **functions},
    }
    sweep = examine_mapping(config, "s")
    before = len(sweep.diagnostics.found)
    check_search_source(sweep, sweep.diagnostics)
    return [each.message for each in sweep.diagnostics.found[before:]]


def test_a_missing_file_is_told_with_the_line_that_it_needs() -> None:
    (message,) = found(None)
    assert message.startswith("search.py does not exist in the current folder")
    assert message.endswith(HINT)


def test_a_missing_function_likewise() -> None:
    assert found("import os\ndef bayes(sweep): ...\n") == [f"search.py has no configuration{HINT}"]
    assert found("x = 1", optimizer="study") == ["search.py has no study"]


@pytest.mark.parametrize(
    "source",
    [
        LINE,
        "from fundamentallm.hosted_search import *\n",
        "from fundamentallm import hosted_search\nbayes, configuration = hosted_search.bayes, 1",
        "import sys as bayes, os as configuration\n",
        "def bayes(sweep):\n  pass\nclass configuration: pass\n",
        "this is no Python",
        f"# {'x' * LARGEST}",
    ],
)
def test_nothing_is_told_where_both_are_defined_or_may_be(source: str) -> None:
    assert found(source) == []
