"""Links in the docs resolve, commands and flags exist, and sweep files pass `check`.

Every `fundamentallm` line of a shell block is parsed by the real command line; a line with `...`
is skipped. Every YAML block is a sweep file.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from conftest import ROOT
from pages import write_files
from wandb_client import BIN

from fundamentallm.cli.main import cli

PAGES = sorted(
    path.relative_to(ROOT)
    for path in (*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("docs/dev/*.md"))
    if not path.parent.name.startswith(".")
)
BUNDLED_FILE = r"\b(?:sweeps|benchmarks|docs|tests)/[\w/.-]+\.(?:yaml|py|md)\b"


def blocks(page: Path, language: str) -> Iterator[str]:
    """Yield the code blocks of a language."""
    text = (ROOT / page).read_text("utf-8")
    yield from re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


def prose(page: Path) -> str:
    """Return a page without its code."""
    text = (ROOT / page).read_text("utf-8")
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, by GitHub's rule."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text("utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        linked = (ROOT / page).parent / file if file else ROOT / page
        assert linked.exists(), f"{page}: {target} does not exist"
        if anchor:
            linked_page = linked.resolve().relative_to(ROOT.resolve())
            assert anchor in anchors(linked_page), f"{page}: {target}: no such heading"


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the arguments of every `fundamentallm` command in a page's shell blocks and tables."""
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
    for arguments in commands(page):
        if not arguments or arguments[0] in ("COMMAND", "--help", "--version"):
            continue
        name, *rest = arguments
        command = cli.get_command(root, name)
        assert command is not None, f"{page}: fundamentallm {' '.join(arguments)}"
        if rest == ["--help"]:
            continue
        try:
            command.make_context(name, list(rest), parent=root)
        except click.MissingParameter:
            continue  # named in prose, without its arguments
        except (click.ClickException, Exception) as error:
            pytest.fail(f"{page}: fundamentallm {' '.join(arguments)}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_sweep_files_pass_check(page: Path, tmp_path: Path) -> None:
    has_program = bool(write_files(ROOT / page, tmp_path))
    path = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}  # for `python`
    for number, text in enumerate(blocks(page, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "fundamentallm", "check", str(file)],
            cwd=tmp_path if has_program else None, env=path,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{page}: {done.stdout}{done.stderr}"


def test_bundled_files_exist() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8")
        for name in re.findall(BUNDLED_FILE, text):
            if name.startswith("sweeps/next") or "NAME" in name:
                continue  # a command of the page writes it
            assert (ROOT / name).exists(), f"{page}: {name}"


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stderr}run: python docs/generate.py"
