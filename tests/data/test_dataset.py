"""Reading, vocabularies, splitting, windows."""

from __future__ import annotations

import mmap
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data import text as text_module
from fundamentallm.data import token_cache
from fundamentallm.data.dataset import TooShortError, prepare, scoring_windows, training_batch
from fundamentallm.data.text import DataError, Text, read_text
from fundamentallm.data.vocabulary import UNKNOWN, Vocabulary, train_length

any_text = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "no text in it"),
        (b" \n\t", "no text in it"),
        (b"ab\x00c", "zero byte at offset 2"),
        ("hello".encode("utf-16"), "UTF-16"),
        (b"abc\xff\xfe", "byte 0xff at offset 3"),
        (b"abc\xe9", "byte 0xe9 at offset 3"),
    ],
)
def test_files_that_are_no_text(raw: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=message) as error:
        read_text(path)
    assert str(path) in str(error.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(DataError, match="Is a directory"):
        read_text(tmp_path)


def test_bom_and_windows_newlines(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read_text(path).content == "one\ntwo\nthree\n"


def test_builtin_corpus_is_english_and_repeats_nothing() -> None:
    text = read_text(None)
    assert text == read_text("built-in")
    assert len(text.content) > 200_000
    assert " the " in text.content
    paragraphs = text.content.split("\n\n")
    assert len(set(paragraphs)) == len(paragraphs)
    assert not any(line.startswith(("|", "+-")) for line in text.content.splitlines())


@given(any_text)
def test_char_vocabulary_round_trip(text: str) -> None:
    vocabulary = Vocabulary.of(text, "char")
    assert vocabulary.decode(vocabulary.encode(text).tolist()) == text
    assert len(vocabulary) == len(set(text)) + 1
    assert not vocabulary.unknown_in(text)


@given(st.text())
def test_byte_vocabulary_round_trip(text: str) -> None:
    vocabulary = Vocabulary.of("", "byte")
    assert vocabulary.decode(vocabulary.encode(text).tolist()) == text


@given(st.text(), st.text())
def test_characters_never_seen_are_unknown(seen: str, other: str) -> None:
    vocabulary = Vocabulary.of(seen, "char")
    shown = "".join(c if c in seen else UNKNOWN for c in other)
    assert vocabulary.decode(vocabulary.encode(other).tolist()) == shown
    assert vocabulary.unknown_in(other).total() == sum(c not in seen for c in other)


def test_many_characters_take_two_bytes() -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 400)))
    assert Vocabulary.of(text, "char").encode(text).dtype == np.uint16
    assert Vocabulary.of(text[:255], "char").encode(text[:255]).dtype == np.uint8


@given(st.lists(st.text()), st.floats(0.001, 0.999))
def test_split_keeps_every_character(pieces: list[str], share: float) -> None:
    whole = "".join(pieces)
    text = replace(Text.of(whole), pieces=lambda: pieces)
    boundary = train_length(text, share)
    first, last = "".join(text.part(0, boundary)), "".join(text.part(boundary, text.length))
    assert first + last == whole
    assert len(last) == round(len(whole) * share)


@given(st.text(st.sampled_from("aé€\U0001f600\r\n\ufeff")), st.integers(1, 7))
def test_a_long_file_reads_as_a_short_one(
    tmp_path_factory: pytest.TempPathFactory, content: str, piece: int
) -> None:
    path = tmp_path_factory.mktemp("long") / "x.txt"
    path.write_bytes(b"x" + content.encode())
    expected = path.read_text("utf-8").replace("\ufeff", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "PIECE", piece)
        patch.setattr(text_module, "HELD", 0)
        text = read_text(path)
        assert text.content == expected
        assert (text.length, text.sha256) == (len(expected), Text.of(expected).sha256)


def test_an_error_late_in_a_long_file_names_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "PIECE", 5)
    path = tmp_path / "x.txt"
    path.write_bytes(b"0123456789\xe2\x82")  # a character that never ends
    with pytest.raises(DataError, match="byte 0xe2 at offset 10"):
        read_text(path)
    path.write_bytes("ééééé".encode() + b"\xe9xxxxxx")
    with pytest.raises(DataError, match="byte 0xe9 at offset 10"):
        read_text(path)
    path.write_bytes(b"0123456789\x00")
    with pytest.raises(DataError, match="zero byte at offset 10"):
        read_text(path)


def test_a_file_that_shrinks_while_it_is_read(
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
def test_a_file_that_changes_while_it_is_read(
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


def test_what_a_killed_process_began_to_keep_is_taken_away(tmp_path: Path, tiny: Config) -> None:
    begun, lately = tmp_path / "new-a", tmp_path / "new-b"
    for folder in (begun, lately):
        folder.mkdir()
        (folder / "tokens").write_bytes(b"x")
    os.utime(begun, (0, 0))
    prepare(Text.of("abcdefghij" * 100), tiny, cache=tmp_path)
    assert not begun.exists()
    assert lately.exists()


def test_bytes_are_what_a_text_of_bytes_is_measured_in(tiny: Config) -> None:
    text = Text.of("\u65e5" * 100)  # 90 characters to train on, 270 bytes
    config = replace(tiny, max_seq_len=200)
    with pytest.raises(TooShortError, match="100 characters are too few"):
        prepare(text, config)
    assert len(prepare(text, replace(config, tokenizer="byte")).train) == 270
    with pytest.raises(TooShortError, match="100 characters are too few"):
        prepare(text, replace(config, tokenizer="byte", max_seq_len=270))


@pytest.mark.parametrize("val_split", [0.001, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("length", [4, 64, 500])
def test_the_length_that_would_do_does(tiny: Config, val_split: float, length: int) -> None:
    config = replace(tiny, val_split=val_split, max_seq_len=length)
    with pytest.raises(TooShortError) as refused:
        prepare(Text.of("ab"), config)
    least = int(str(refused.value).split("at least ")[1].split(",")[0])
    prepare(Text.of("a" * least), config)


def test_vocabulary_comes_from_the_training_part(tiny: Config) -> None:
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
def test_too_short_names_a_size_that_would_do(size: int, tiny: Config) -> None:
    try:
        prepare(Text.of("x" * size), tiny)
    except DataError as error:
        least = int(str(error).partition("at least ")[2].split(",")[0])
        assert least > size
        prepare(Text.of("x" * least), tiny)
    else:
        assert size >= 18


def test_large_texts_are_encoded_once(monkeypatch: pytest.MonkeyPatch, tiny: Config) -> None:
    monkeypatch.setattr(token_cache, "WORTH_KEEPING", 100)
    text = Text.of("to be or not to be? é " * 50)
    first = prepare(text, tiny)
    monkeypatch.setattr(Vocabulary, "encode", None)  # a second encoding would fail
    second = prepare(text, tiny)
    assert _is_mapped(second.train)  # nor is anything read into memory
    assert second.vocabulary == first.vocabulary
    assert (second.train == first.train).all()
    assert (second.val == first.val).all()


def test_a_long_text_is_never_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def _is_mapped(array: Any) -> bool:
    return array is not None and (isinstance(array, mmap.mmap) or _is_mapped(array.base))


def test_a_damaged_cache_is_encoded_again(monkeypatch: pytest.MonkeyPatch, tiny: Config) -> None:
    monkeypatch.setattr(token_cache, "WORTH_KEEPING", 100)
    text = Text.of("to be or not to be? " * 50)
    expected = prepare(text, tiny).train.copy()
    (file,) = token_cache.cache_folder().glob("*.tokens")
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    assert (prepare(text, tiny).train == expected).all()
