"""`evaluate`: parts of the training text, other texts, and long ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Run

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.dataset import prepare
from fundamentallm.data.text import Text
from fundamentallm.training.loop import train


def test_the_training_text_is_scored_by_parts(
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


def test_another_text_is_scored_as_a_whole(
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
