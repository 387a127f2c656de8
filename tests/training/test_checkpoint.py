"""Checkpoints are whole or refused."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.vocabulary import Vocabulary
from fundamentallm.files.atomic import DiskError
from fundamentallm.model.transformer import Transformer
from fundamentallm.training.checkpoint import Checkpoint, CheckpointError, find_checkpoint


@pytest.fixture
def saved(tiny: Config, tmp_path: Path) -> Path:
    vocabulary = Vocabulary.of("abc", "char")
    path = tmp_path / "last.pt"
    weights = Transformer(len(vocabulary), tiny).state_dict()
    data = {"name": "x", "sha256": "0"}
    Checkpoint(tiny, vocabulary, data, weights, {"step": 3}, {"optimizers": []}).save(path)
    return path


def test_what_is_saved_is_loaded(saved: Path, tiny: Config) -> None:
    loaded = Checkpoint.load(saved)
    assert loaded.config == tiny
    assert loaded.vocabulary == Vocabulary.of("abc", "char")
    assert loaded.progress == {"step": 3}
    assert loaded.build_model().training is False
    assert torch.load(saved, weights_only=True)["format"] == 2  # plain torch reads it as well
    assert [file.name for file in saved.parent.iterdir()] == ["last.pt"]


def test_no_flipped_byte_goes_unnoticed(saved: Path) -> None:
    raw = saved.read_bytes()
    draw = random.Random(0)
    places = [draw.randrange(len(raw)) for _ in range(300)] + [0, len(raw) - 1, len(raw) - 20]
    for place in places:
        damaged = bytearray(raw)
        damaged[place] ^= 1 << draw.randrange(8)
        saved.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=str(saved)):
            Checkpoint.load(saved)


@pytest.mark.parametrize("keep", [0, 1, 100, -1, -40])
def test_truncated(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="not a whole fundamentallm checkpoint"):
        Checkpoint.load(saved)


def test_a_failed_save_leaves_the_old_one(
    saved: Path, monkeypatch: pytest.MonkeyPatch, tiny: Config
) -> None:
    old = Checkpoint.load(saved)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskError, match=r"last.pt: cannot be written \(No space"):
        Checkpoint(tiny, old.vocabulary, old.data, {}, {}, {}).save(saved)
    assert Checkpoint.load(saved).progress == {"step": 3}
    assert [file.name for file in saved.parent.iterdir()] == ["last.pt"]


def test_weights_of_another_shape_or_vocabulary(saved: Path) -> None:
    loaded = Checkpoint.load(saved)
    for other in (
        replace(loaded, vocabulary=Vocabulary.of("abcd", "char")),
        replace(loaded, config=replace(loaded.config, model_dim=32)),
    ):
        with pytest.raises(CheckpointError, match="do not fit"):
            other.build_model()


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"No such file.*give a run or a checkpoint"):
        Checkpoint.load(find_checkpoint(tmp_path / "none.pt"))
    with pytest.raises(CheckpointError, match=r"no best.pt or last.pt in it"):
        find_checkpoint(tmp_path)
