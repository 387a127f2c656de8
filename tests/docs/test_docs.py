"""The docs cannot lie: links lead somewhere, commands exist, files that they show can be read.

A line of a shell block that begins with `fundamentallm` is parsed as that command would, with its
flags, so that none that is shown is unknown; `...` stands for more and is not looked at. Blocks of
YAML are sweep files, and `check` reads them.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from conftest import ROOT

from fundamentallm.cli.main import cli

PAGES = sorted(
    path.relative_to(ROOT)
    for path in (*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("docs/dev/*.md"))
    if not path.parent.name.startswith(".")
)
NAMED = r"\b(?:sweeps|benchmarks|docs|tests)/[\w/.-]+\.(?:yaml|py|md)\b"


def blocks(page: Path, language: str) -> Iterator[str]:
    """The code blocks of a language."""
    text = (ROOT / page).read_text("utf-8")
    yield from re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


def prose(page: Path) -> str:
    """A page without its code."""
    text = (ROOT / page).read_text("utf-8")
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """What `#...` may follow a page's name, by GitHub's rule."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text("utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        goal = (ROOT / page).parent / file if file else ROOT / page
        assert goal.exists(), f"{page}: {target} is not there"
        if anchor:
            there = goal.resolve().relative_to(ROOT.resolve())
            assert anchor in anchors(there), f"{page}: {target}: no such heading"


def commands(page: Path) -> Iterator[list[str]]:
    """Every line of ours in a page's shell blocks and tables, as words."""
    text = "\n".join(blocks(page, "bash"))
    lines = text.replace("\\\n", " ").splitlines()
    page_text = (ROOT / page).read_text("utf-8")
    lines += re.findall(r"`(fundamentallm [^`\n]*)`", page_text)
    for line in lines:
        line = re.sub(r"\s+#.*$", "", line).strip().replace(".venv/bin/", "")
        for part in re.split(r"&&|\||;| > ", line):
            part = part.strip().removeprefix("exec ")
            if part.startswith("fundamentallm ") and "..." not in part:
                yield shlex.split(part)[1:]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_exist_with_their_flags(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    root = cli.make_context("fundamentallm", ["train"])
    for words in commands(page):
        if not words or words[0] in ("COMMAND", "--help", "--version"):
            continue
        name, *rest = words
        command = cli.get_command(root, name)
        assert command is not None, f"{page}: fundamentallm {' '.join(words)}"
        if rest == ["--help"]:
            continue
        try:
            command.make_context(name, list(rest), parent=root)
        except click.MissingParameter:
            continue  # a command named in prose
        except (click.ClickException, Exception) as error:
            pytest.fail(f"{page}: fundamentallm {' '.join(words)}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_sweep_files_that_are_shown_pass(page: Path, tmp_path: Path) -> None:
    for number, text in enumerate(blocks(page, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "fundamentallm", "check", str(file)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{page}: {done.stdout}{done.stderr}"


def test_bundled_files_that_are_named_exist() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8")
        for name in re.findall(NAMED, text):
            if name.startswith("sweeps/next") or "NAME" in name:
                continue  # what a command of the page writes
            assert (ROOT / name).exists(), f"{page}: {name}"


def test_pages_made_from_the_code_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stderr}write them again: python docs/generate.py"
