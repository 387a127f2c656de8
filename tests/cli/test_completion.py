"""Completion in bash, as docs/commands.md sets it up: a person types, and presses TAB."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT, need_program
from tiny_sweep import wait_for


class Bash:
    """An interactive bash in a terminal of its own."""

    def __init__(self, folder: Path, setup: str) -> None:
        program = folder / "bin/fundamentallm"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fundamentallm "$@"\n')
        program.chmod(0o755)
        (folder / "bashrc").write_text(
            f"PS1='$ '\nbind 'set bell-style none'\n{setup}\necho ready\n"
        )
        path = f"{program.parent}:{os.environ['PATH']}"
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--rcfile", "bashrc", "-i"], cwd=folder,
            env={**os.environ, "PATH": path, "TERM": "dumb"}, stdin=theirs, stdout=theirs,
            stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        os.set_blocking(self.ours, False)
        self.shown = ""
        self.wait_for("ready")

    def wait_for(self, text: str) -> None:
        """Read what bash shows until `text` is in it."""

        def is_shown() -> bool:
            with suppress(BlockingIOError):
                self.shown += os.read(self.ours, 65_536).decode()
            return text in self.shown

        wait_for(is_shown)

    def type(self, keys: str, *, until: str) -> None:
        """Type on an empty line, and wait for a text."""
        os.write(self.ours, b"\x15")  # removes the line
        self.shown = ""
        os.write(self.ours, keys.encode())
        self.wait_for(until)

    def close(self) -> None:
        """End bash."""
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


@pytest.fixture
def bash(tmp_path: Path) -> Iterator[Bash]:
    """Bash with the line of the docs."""
    need_program("bash")
    page = (ROOT / "docs/commands.md").read_text("utf-8")
    setup = re.search(r"^eval .*bash_source.*$", page, re.M)
    assert setup is not None
    shell = Bash(tmp_path, setup[0])
    yield shell
    shell.close()


def test_tab_completes_commands_flags_sweeps_and_files(bash: Bash, tmp_path: Path) -> None:
    bash.type("fundamentallm gen\t", until="fundamentallm generate ")
    bash.type("fundamentallm train --learning\t", until="--learning-rate ")
    bash.type("fundamentallm sweep quick\t", until="sweep quickstart ")
    (tmp_path / "data-of-mine.txt").touch()
    bash.type("fundamentallm train data\t", until="train data-of-mine.txt ")
    bash.type(
        "fundamentallm generate x --prompt-file dat\t", until="--prompt-file data-of-mine.txt "
    )
    (tmp_path / "quick.yaml").touch()
    bash.type("fundamentallm sweep quick\t", until="sweep quick.yaml ")
