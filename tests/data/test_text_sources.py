"""Where a run's text comes from, and what becomes of the run when it is not there any more."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, Run
from tiny_sweep import grid

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.dataset import prepare
from fundamentallm.data.text import Text
from fundamentallm.training import loop
from fundamentallm.training.loop import train

PROGRAM = f"{shlex.quote(sys.executable)} -m fundamentallm"


def bash(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = script.replace("fundamentallm ", f"{PROGRAM} ", 1)
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )


def test_from_another_folder_the_error_says_how_to_name_the_text(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    assert run("train", "cats.txt", *tiny_flags, "--output-dir=out").returncode == 0
    other = tmp_path / "other"
    other.mkdir()
    for flags in ("--config ../out/config.yaml", "--output-dir ../out --resume"):
        done = bash(f"fundamentallm train {flags} --max-steps 30", other)
        assert done.returncode == 2
        (error,) = done.stderr.splitlines()[-1:]
        assert f"cats.txt: the run's text is not at {other / 'cats.txt'}; give its path" in error
        command = error.rpartition("give its path: ")[2]
        assert command == f"fundamentallm train PATH/TO/cats.txt {flags}"
        done = bash(command.replace("PATH/TO", "..") + " --max-steps=30", other)
        assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/summary.json").read_text())["step"] == 30


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("cat cats.txt | fundamentallm train - FLAGS", "/dev/stdin"),
        ("fundamentallm train /dev/stdin FLAGS < cats.txt", "/dev/stdin"),
        ("fundamentallm train <(cat cats.txt) FLAGS", "/dev/fd/"),
        ("mkfifo p; cat cats.txt > p & fundamentallm train p FLAGS", "p"),
    ],
)
def test_a_text_that_is_read_once_can_be_resumed_from_a_file(
    script: str, name: str, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    flags = " ".join([*tiny_flags, "--output-dir out --no-wandb"])
    done = bash(script.replace("FLAGS", flags), tmp_path)
    assert done.returncode == 0, done.stderr
    found = re.search(rf"warning: {name}\S* can be read only once; .* use: (.*)\n", done.stderr)
    assert found is not None, done.stderr
    assert found[1] == "fundamentallm train TEXT.txt --output-dir out --resume --no-wandb"
    bare = bash("fundamentallm train --output-dir out --resume --max-steps 30", tmp_path)
    assert bare.returncode == 2
    assert "this pipe, which is gone; save the same text to a file and run: " in bare.stderr
    assert "fundamentallm train TEXT.txt" in bare.stderr
    again = bash(found[1].replace("TEXT.txt", "cats.txt") + " --max-steps=30", tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "out/summary.json").read_text())["step"] == 30


def test_of_a_file_nothing_is_said(run: Run, text_file: Path, tiny_flags: list[str]) -> None:
    assert "only once" not in run("train", text_file, *tiny_flags).stderr


def test_a_sweep_needs_a_text_that_every_run_can_read(text_file: Path, tmp_path: Path) -> None:
    shutil.copy2(ROOT / "train.py", tmp_path)
    (tmp_path / "s.yaml").write_text(grid())
    for command in ("sweep", "check"):
        done = bash(f"fundamentallm {command} s.yaml <(cat cats.txt)", tmp_path)
        assert done.returncode == 2
        assert "it can be read only once, and every run of a sweep reads the text" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_the_text_of_training_is_scored_by_its_parts(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    assert run("train", text_file, *tiny_flags, "--output-dir=out").returncode == 0
    whole = run("evaluate", "out", text_file, "--json")
    assert f"the model was trained on {text_file}, except for its last 1," in whole.stderr
    assert "--split val scores only those" in whole.stderr
    parts = {
        split: run("evaluate", "out", text_file, "--split", split, "--json")
        for split in ("train", "val")
    }
    assert all("trained on" not in done.stderr for done in parts.values())
    scored = {split: json.loads(done.stdout) for split, done in parts.items()}
    best = json.loads((tmp_path / "out/summary.json").read_text())["best_val_loss"]
    assert scored["val"]["loss"] == pytest.approx(best, abs=1e-6)
    tokens = scored["train"]["tokens"] + scored["val"]["tokens"]
    assert tokens + 1 == json.loads(whole.stdout)["tokens"]


def test_another_text_has_no_such_parts(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    assert run("train", text_file, *tiny_flags, "--output-dir=out").returncode == 0
    (tmp_path / "other.txt").write_text("The 7 cats sat.\n" * 20)
    done = run("evaluate", "out", "other.txt", "--split=val")
    assert done.returncode == 2
    assert "other.txt is another text; leave out --split" in done.stderr
    assert "trained on" not in run("evaluate", "out", "other.txt").stderr


def test_an_evaluation_of_a_long_text_is_bounded(
    text: str, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fundamentallm.data.dataset.MOST_SCORED", 300)
    data = prepare(Text.of(text, "long.txt"), tiny)
    assert data.warnings() == [
        f"long.txt, validation part: val_loss is of the first 300 of its {len(data.val):,} tokens; "
        "a smaller --val-split leaves more to train on"
    ]
    short = replace(data, val=data.val[:301], val_characters=301)
    assert short.warnings() == []
    assert train(tiny, data).val_loss == train(tiny, short).val_loss
    in_bytes = replace(tiny, tokenizer="byte")
    data = prepare(Text.of(text.replace("y", "\u00e9")), in_bytes)
    assert train(in_bytes, data).status == "done"


def test_kernels_are_built_before_the_clock_starts(
    text: str, tiny: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they never were, that takes longer than many a --max-minutes 0.1."""
    order: list[str] = []
    take_step = loop.Run.take_step
    monkeypatch.setattr(loop, "kernels", lambda: order.append("kernels"))
    monkeypatch.setattr(
        loop.Run, "take_step", lambda self: (order.append("step"), take_step(self))[1]
    )
    train(tiny, text, device="cpu")
    assert order[:2] == ["kernels", "step"]
