"""The cache of encoded texts."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import pytest

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data import token_cache
from fundamentallm.data.dataset import prepare
from fundamentallm.data.text import Text
from fundamentallm.data.vocabulary import Vocabulary


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path, tiny: Config) -> None:
    begun, lately = tmp_path / "new-a", tmp_path / "new-b"
    for folder in (begun, lately):
        folder.mkdir()
        (folder / "tokens").write_bytes(b"x")
    os.utime(begun, (0, 0))
    prepare(Text.of("abcdefghij" * 100), tiny, cache=tmp_path)
    assert not begun.exists()
    assert lately.exists()


def test_a_large_text_is_encoded_once_and_then_mapped(
    monkeypatch: pytest.MonkeyPatch, tiny: Config
) -> None:
    monkeypatch.setattr(token_cache, "WORTH_KEEPING", 100)
    text = Text.of("to be or not to be? é " * 50)
    first = prepare(text, tiny)
    monkeypatch.setattr(Vocabulary, "encode", None)  # a second encoding would fail
    second = prepare(text, tiny)
    assert _is_mapped(second.train)  # nor is anything read into memory
    assert second.vocabulary == first.vocabulary
    assert (second.train == first.train).all()
    assert (second.val == first.val).all()


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
