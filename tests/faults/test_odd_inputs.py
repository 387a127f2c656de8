"""Odd names, paths, files and terminals get one error line or just work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TEXT, Run

from fundamentallm import Config
from fundamentallm.data.dataset import prepare
from fundamentallm.data.text import DataError, Text, read_text
from fundamentallm.data.vocabulary import Vocabulary
from fundamentallm.files.run_folder import (
    RunFolderError,
    new_run_folder,
    read_flat_yaml,
)
from fundamentallm.model.sampling import continue_text
from fundamentallm.model.transformer import Transformer


@pytest.mark.parametrize("line", ["seed: 2020-99-99", "seed: !!int abc", "seed: !!timestamp x"])
def test_values_that_yaml_cannot_construct(line: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(line)
    with pytest.raises(RunFolderError, match=r"config.yaml"):
        read_flat_yaml(tmp_path / "config.yaml")


def test_a_runs_folder_that_is_a_broken_link(tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(tmp_path / "not mounted")
    with pytest.raises(RunFolderError, match="runs: no folder can be created there"):
        new_run_folder(tmp_path / "runs", "x")


def test_a_long_text_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert len(prepare(Text.of(TEXT * 100), Config()).train) > 1_000_000


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "t\udce9xt.txt").write_text(TEXT)
    with pytest.raises(DataError, match="this name is not UTF-8"):
        read_text(tmp_path / "t\udce9xt.txt")


@pytest.mark.parametrize("words", [["generate"], ["train", "--resume", "--output-dir"]])
def test_a_path_too_long(words: list[str], run: Run) -> None:
    done = run(*words, "x" * 300)
    assert done.returncode == 2
    assert "File name too long" in done.stderr
    assert "Traceback" not in done.stderr


def test_samples_that_the_terminal_cannot_show(
    run: Run, tmp_path: Path, tiny_flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ru.txt").write_text("Мама мыла раму, и ещё раз. " * 400, "utf-8")
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    done = run("train", "ru.txt", *tiny_flags, "--no-wandb", "--output-dir=out")
    assert done.returncode == 0, done.stderr
    assert r"\u0430" in done.stdout
    assert "рам" in (tmp_path / "out/samples.txt").read_text("utf-8")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_output_that_cannot_be_written_stops_and_saves(
    text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    words = [sys.executable, "-c", "import sys; from fundamentallm.cli.main import main; main()"]
    more = ["train", str(text_file), *tiny_flags, "--no-wandb", "--output-dir=out"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*words, *more, "--max-steps=100000"],
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr


def test_a_prompt_of_bytes_is_whole_characters(tiny: Config) -> None:
    vocabulary = Vocabulary.of(["ж"], "byte")
    torch.manual_seed(0)
    model = Transformer(len(vocabulary), tiny).eval()
    tokens = vocabulary.encode("x" + "ж" * 40)  # 40 tokens end inside a character
    assert continue_text(model, vocabulary, tokens, seed=0).prompt == "x" + "ж" * 19
