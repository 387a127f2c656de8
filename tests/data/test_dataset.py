"""Datasets: splits, checks of length, and windows."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data import text as text_module
from fundamentallm.data.dataset import TooShortError, prepare, scoring_windows, training_batch
from fundamentallm.data.text import DataError, Text, read_text


def test_a_file_that_shrinks_while_being_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Config
) -> None:
    monkeypatch.setattr(text_module, "HELD", 0)
    path = tmp_path / "x.txt"
    path.write_text("abcdefghij" * 100)
    text = read_text(path)
    path.write_text("abcdefghij")
    with pytest.raises(DataError, match="became shorter while being read"):
        prepare(text, tiny)


@pytest.mark.parametrize("cached", [False, True])
def test_a_file_that_changes_while_being_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Config, cached: bool
) -> None:
    """Or its tokens would be kept under the name of another text."""
    monkeypatch.setattr(text_module, "HELD", 0)
    path = tmp_path / "x.txt"
    path.write_text("abcdefghij" * 100)
    text = read_text(path)
    path.write_text("klmnopqrst" * 100)
    cache = tmp_path / "cache" if cached else None
    with pytest.raises(DataError, match="changed while being read; try again"):
        prepare(text, tiny, cache=cache)
    path.write_text("abcdefghij" * 100)
    found = prepare(read_text(path), tiny, cache=cache)
    assert found.vocabulary.characters == "abcdefghij"


def test_the_length_of_a_text_is_checked_in_tokens(tiny: Config) -> None:
    text = Text.of("\u65e5" * 100)  # 90 characters to train on, 270 bytes
    config = replace(tiny, max_seq_len=200)
    with pytest.raises(TooShortError, match="100 characters are too few"):
        prepare(text, config)
    assert len(prepare(text, replace(config, tokenizer="byte")).train) == 270
    with pytest.raises(TooShortError, match="100 characters are too few"):
        prepare(text, replace(config, tokenizer="byte", max_seq_len=270))


@pytest.mark.parametrize("val_split", [0.001, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("length", [4, 64, 500])
def test_the_length_that_an_error_suggests_is_enough(
    tiny: Config, val_split: float, length: int
) -> None:
    config = replace(tiny, val_split=val_split, max_seq_len=length)
    with pytest.raises(TooShortError) as refused:
        prepare(Text.of("ab"), config)
    least = int(str(refused.value).split("at least ")[1].split(",")[0])
    prepare(Text.of("a" * least), config)


def test_the_vocabulary_comes_from_the_training_part(tiny: Config) -> None:
    dataset = prepare(Text.of("ab" * 500 + "z" * 100), tiny)
    assert dataset.vocabulary.characters == "ab"
    assert set(dataset.val.tolist()) == {0, 1, 2}


@given(length=st.integers(1, 40), count=st.integers(2, 200), batch=st.integers(1, 5))
def test_scoring_windows_cover_each_token_once(length: int, count: int, batch: int) -> None:
    tokens = np.arange(count, dtype=np.uint8)
    targets: list[int] = []
    for inputs, wanted in scoring_windows(tokens, length, batch):
        assert inputs.shape == wanted.shape
        assert inputs.shape[0] <= batch
        assert inputs.shape[1] <= length
        assert (wanted == inputs + 1).all()
        targets += wanted.flatten().tolist()
    assert targets == list(range(1, count))


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_training_batches_depend_on_seed_and_step_alone(seed: int, step: int) -> None:
    tokens = np.arange(200, dtype=np.uint8)
    whole = Config(seed=seed, batch_size=8, max_seq_len=16)
    parts = Config(seed=seed, batch_size=2, gradient_accumulation=4, max_seq_len=16)
    batch = training_batch(tokens, whole, step)
    assert batch.shape == (8, 17)
    assert (batch.diff() == 1).all()
    assert (batch == training_batch(tokens, parts, step)).all()
    assert not (batch == training_batch(tokens, whole, step + 1)).all()


def test_training_windows_reach_both_ends() -> None:
    tokens = np.arange(20, dtype=np.uint8)
    config = Config(batch_size=128, max_seq_len=16)
    starts = {int(row[0]) for step in range(5) for row in training_batch(tokens, config, step)}
    assert starts == {0, 1, 2, 3}


@pytest.mark.parametrize("size", range(2, 60))
def test_every_short_text_gets_a_sufficient_suggestion(size: int, tiny: Config) -> None:
    try:
        prepare(Text.of("x" * size), tiny)
    except DataError as error:
        least = int(str(error).partition("at least ")[2].split(",")[0])
        assert least > size
        prepare(Text.of("x" * least), tiny)
    else:
        assert size >= 18


def test_a_long_text_is_never_held_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "HELD", 0)
    monkeypatch.setattr(text_module, "PIECE", 1 << 18)
    path = tmp_path / "long.txt"
    path.write_text("Nothing of this is kept. " * 400_000)  # 10 MB
    config = Config(max_seq_len=16, val_split=0.5)
    prepare(Text.of("The table of code points. " * 50), config)
    tracemalloc.start()
    try:
        data = prepare(read_text(path), config)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(data.train) == len(data.val) == 5_000_000
    assert peak < 7_000_000
