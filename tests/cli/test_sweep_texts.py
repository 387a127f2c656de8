"""Texts of a sweep: named by its file, by a config, or built in."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import TEXT, Run
from tiny_sweep import FLAGS, grid, start, summaries

from fundamentallm.cli.sweep_texts import named_texts
from fundamentallm.sweep.file.sweep_file import parse_sweep

ON_ITS_TEXT = grid(rates=1).replace("parameters:", "parameters:\n  data: {value: cats.txt}")


def agent(folder: Path, *arguments: object, **environment: str) -> tuple[int, str]:
    """The exit code of `fundamentallm agent`, run in that folder, and what it says."""
    process = start(folder, "agent", *arguments, **environment)
    said, _ = process.communicate()
    return process.returncode, said


def test_an_agent_finds_the_texts_that_the_file_names(
    run: Run, tmp_path: Path, text_file: Path
) -> None:
    (tmp_path / "t.yaml").write_text(ON_ITS_TEXT)
    assert run("sweep", "t.yaml", "--count=1", "--", *FLAGS).returncode == 0
    (tmp_path / "elsewhere").mkdir()
    code, said = agent(tmp_path / "elsewhere", "../runs/t", "--data=../cats.txt")
    assert code == 2
    assert "leave out --data" in said
    text_file.write_text(TEXT + "one more")
    for command in (("agent", "runs/t"), ("sweep", "t.yaml", "--", *FLAGS)):
        changed = run(*command)
        assert changed.returncode == 2
        assert "cats.txt" in changed.stderr
    text_file.rename(tmp_path / "dogs.txt")
    code, said = agent(tmp_path / "elsewhere", "../runs/t")
    assert code == 2
    assert "none of the texts that the sweep names exist here" in said
    assert len(summaries(tmp_path / "runs/t")) == 1
    text_file.write_text(TEXT)
    code, said = agent(tmp_path / "elsewhere", "../runs/t")
    assert code == 0, said
    assert len(summaries(tmp_path / "runs/t")) == 2


def test_a_sweep_on_the_built_in_text_resumes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "program: train.py\nmethod: grid\nmetric: {name: val_loss}\nparameters:\n"
        "  seed: {values: [0]}\n  max_steps: {value: 2}\n"
    )
    assert run("sweep", "c.yaml", "built-in", "--count=0", "--", *FLAGS).returncode == 0
    assert run("sweep", "c.yaml", "--count=0", "--", *FLAGS).returncode == 0  # the same text
    for more in (["--count=0"], ["--data=built-in"]):
        on = run("agent", "runs/c", *more)
        assert on.returncode == 0, on.stderr
    assert len(summaries(tmp_path / "runs/c")) == 1


def test_the_text_of_a_config_is_used(run: Run, tmp_path: Path, text_file: Path) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=1, seeds=1))
    (tmp_path / "c.yaml").write_text("data: cats.txt\nmodel_dim: 16\n")
    done = run("sweep", "t.yaml", "--", *FLAGS, "--config=c.yaml")
    assert done.returncode == 0, done.stderr
    assert "on cats.txt" in done.stdout
    assert "data: cats.txt" in (tmp_path / "runs/t/run-0001/config.yaml").read_text()


@pytest.mark.parametrize("more", ["", ", probabilities: [0.5, 0.5]"])
def test_the_texts_that_a_sweep_names_are_known(more: str) -> None:
    text = f"{grid()}  data: {{values: [a.txt, b.txt]{more}}}\n".replace("grid", "random")
    assert named_texts(parse_sweep(text, "t")) == ["a.txt", "b.txt"]
