"""Runs every `fundamentallm` command in the shell blocks of README and docs, page by page.

One rule keeps runs short: `train` and `sweep` get the flags SHORT, a tiny model for few steps,
`refine` trains for one epoch, and `tune` gets a thousandth of a run for each hour. The quickstart
and the program of your-program.md are short as they are. Commands of other programs are tested
elsewhere: CI installs, faults/test_signals.py runs SLURM's, test_wandb_sweeps.py W&B's.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, nightly
from pages import write_files
from wandb_client import BIN

from fundamentallm.data.builtin_corpus import builtin_corpus

SHORT = (
    "--model-dim 16 --num-layers 1 --num-heads 2 --max-seq-len 16 --batch-size 64 --max-steps 20"
)
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if re.search(r"^```bash\n", page.read_text("utf-8"), flags=re.M)
]
IN_CI = ("README", "cluster")
OTHER_PROGRAMS = re.compile(
    r"(source|cd|git|pip|\S*/pip|python\S*|\S*/python|sbatch|umask|echo|exec|\.|wandb) "
)


def shell_commands(page: Path) -> list[str]:
    """Return the commands of a page's shell blocks."""
    text = "\n".join(re.findall(r"^```bash\n(.*?)^```", page.read_text("utf-8"), flags=re.M | re.S))
    commands = []
    for line in text.replace("\\\n", " ").splitlines():
        for command in re.sub(r"(^|\s+)#.*$", "", line).split(" && "):
            if command.strip():
                commands.append(command.strip().removeprefix(".venv/bin/"))
    return commands


def shortened(command: str) -> str:
    """Return the command with the flags that keep it short."""
    command, arrow, file = command.partition(" > ")
    if "quickstart" in command or "sweep sweep.yaml" in command:
        return command
    if command.startswith("fundamentallm train"):
        command = f"{command} {SHORT}"
    elif command.startswith("fundamentallm sweep"):
        command = f"{command}{' ' if ' -- ' in command else ' -- '}{SHORT}"
    elif command.startswith("fundamentallm refine"):
        command = re.sub(r"--epochs \d+", "--epochs 1", command)
    elif command.startswith("fundamentallm tune"):
        command = re.sub(r"--hours (\d+)", r"--runs 0.00\1 --max-parameters 110000", command)
    return command + arrow + file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with all that the pages expect: the bundled sweeps, two texts, and the program."""
    shutil.copytree(ROOT / "sweeps", tmp_path / "sweeps")
    shutil.copy2(ROOT / "train.py", tmp_path)
    text = builtin_corpus()
    (tmp_path / "data.txt").write_text(text[:60_000], "utf-8")
    (tmp_path / "other.txt").write_text(text[60_000:70_000], "utf-8")
    program = tmp_path / "bin/fundamentallm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fundamentallm "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{BIN}", prepend=":")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page if page.stem in IN_CI else nightly(page) for page in PAGES],
    ids=lambda page: page.stem,
)
def test_the_commands_of_a_page_run(page: Path, folder: Path) -> None:
    def run(command: str) -> None:
        done = subprocess.run(
            shortened(command), shell=True, cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"

    ours = [line for line in shell_commands(page) if line.startswith("fundamentallm ")]
    others = [line for line in shell_commands(page) if not line.startswith("fundamentallm ")]
    assert all(OTHER_PROGRAMS.match(line + " ") for line in others), others
    write_files(page, folder)
    if page.stem == "writing":
        run("fundamentallm train data.txt")  # creates runs/data-1, which the page uses
    for command in ours:
        needs_sweep = command.startswith(("fundamentallm refine", "fundamentallm export runs/lr"))
        if needs_sweep and not (folder / "runs/lr").exists():
            run("fundamentallm sweep sweeps/lr.yaml data.txt")
        run(command)
