"""What a shell hands over: a `~` that it left alone, closed streams, `python -OO`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest
from conftest import ROOT, Run
from tiny_sweep import FLAGS, grid, summaries

from fundamentallm.cli.main import cli
from fundamentallm.cli.options import PATH

OLD = ROOT / "tests/fixtures/0.1"
OF_PATHS = ("DATA", "DIR", "FILE", "YAML", "RUN", "SWEEP")


def commands(group: click.Group = cli) -> Iterator[click.Command]:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from commands(command)
        else:
            yield command


def test_every_path_is_of_the_type_of_paths() -> None:
    found = {
        f"{command.name} {param.name}": param.type
        for command in commands()
        for param in command.params
        if any(word in (param.metavar or "") for word in OF_PATHS)
    }
    assert len(found) > 20
    assert {name for name, type_ in found.items() if type_ is not PATH} == set()


def test_a_home_folder_that_the_shell_left_alone(
    run: Run, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    text_file.rename(home / "cats.txt")
    steps = ("--max-steps=4", "--eval-every=4", "--no-wandb")
    done = run("train", "~/cats.txt", *FLAGS, *steps, "--output-dir=~/out")
    assert done.returncode == 0, done.stderr
    assert (home / "out/summary.json").exists()
    again = run("train", "--config=~/out/config.yaml", *steps, "--output-dir=~/more")
    assert again.returncode == 0, again.stderr
    assert run("generate", "~/out", "--max-tokens=3").returncode == 0
    assert run("evaluate", "~/out/best.pt", "~/cats.txt").returncode == 0
    assert run("report", "~/out", "~/more", "--output=~/both.html").returncode == 0
    assert (home / "both.html").exists()
    named = grid(rates=1, seeds=1).replace(
        "parameters:", "parameters:\n  data: {value: ~/cats.txt}"
    )
    (home / "t.yaml").write_text(named)
    assert run("check", "~/t.yaml", "--repaired=~/r.yaml", "--", *FLAGS).returncode in (0, 1)
    swept = run("sweep", "~/t.yaml", "--output-dir=~/t", "--", *FLAGS)
    assert swept.returncode == 0, swept.stderr
    (home / "u.yaml").write_text(grid(rates=1, seeds=1))
    config = "--config=~/out/config.yaml"
    swept = run("sweep", "~/u.yaml", "~/cats.txt", "--output-dir=~/u", "--", config)
    assert swept.returncode == 0, swept.stderr
    for name in ("t", "u"):
        assert summaries(home / name)["run-0001"]["status"] == "done"
    assert run("agent", "~/u", "--data=~/cats.txt").returncode == 0
    assert not (tmp_path / "~").exists()


PRINTING = (
    ["generate", "run", "--max-tokens=3"],
    ["evaluate", "run", "cats.txt"],
    ["train", "cats.txt", "--output-dir=run", "--resume", "--max-steps=24", "--no-wandb"],
    ["check", "t.yaml"],
    ["explain", "tiny"],
    ["report", "tiny"],
    ["next", "tiny"],
    ["compare", "tiny"],
    ["agent", "tiny", "--data=cats.txt"],
    ["--version"],
    ["sweep", "--help"],
)


@pytest.mark.parametrize("words", PRINTING, ids=lambda words: words[0])
def test_closed_streams_change_nothing(words: Sequence[str], tmp_path: Path) -> None:
    """Not even where a file is opened that would be given the number of stdout."""
    command = [sys.executable, "-m", "fundamentallm", *words]
    codes: list[int] = []
    for closed in ((), (1,), (0, 1, 2)):
        place = tmp_path / f"closed {closed}"
        shutil.copytree(OLD, place)
        (place / "t.yaml").write_text(grid())

        def close(numbers: Sequence[int] = closed) -> None:
            for number in numbers:
                os.close(number)

        done = subprocess.run(
            command, cwd=place, capture_output=True, text=True, check=False, preexec_fn=close
        )
        assert "Traceback" not in done.stderr
        codes.append(done.returncode)
        said = [place.joinpath(name).read_bytes() for name in ("run/last.pt", "run/best.pt")]
        assert all(content.endswith(b"fundamentallm\x01\n") for content in said)
    assert codes == [codes[0]] * 3


@pytest.mark.parametrize("words", [[], ["train"], ["find"], ["find", "learning-rate"]])
def test_help_survives_without_docstrings(words: Sequence[str]) -> None:
    helps = [
        subprocess.run(
            [sys.executable, *flags, "-m", "fundamentallm", *words, "--help"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for flags in ([], ["-OO"])
    ]
    assert helps[0] == helps[1]
