"""Options that several commands share: paths, with `~` as shells pass it on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from conftest import Run
from tiny_sweep import FLAGS, grid, summaries

from fundamentallm.cli.main import cli
from fundamentallm.cli.options import PathType

OF_PATHS = ("DATA", "DIR", "FILE", "YAML", "RUN", "SWEEP")


def commands(group: click.Group = cli) -> Iterator[click.Command]:
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from commands(command)
        else:
            yield command


def test_every_path_option_has_the_path_type() -> None:
    found = {
        f"{command.name} {param.name}": param.type
        for command in commands()
        for param in command.params
        if any(word in (param.metavar or "") for word in OF_PATHS)
    }
    assert len(found) > 20
    assert {name for name, type_ in found.items() if not isinstance(type_, PathType)} == set()


@pytest.mark.nightly
def test_a_tilde_that_the_shell_did_not_expand(
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
