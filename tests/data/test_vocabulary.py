"""Vocabularies: encoding, decoding, and unknown characters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fundamentallm.data.text import Text
from fundamentallm.data.vocabulary import UNKNOWN, Vocabulary, train_length

any_text = st.text(st.characters(exclude_categories=()))


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
def test_characters_not_in_training_are_unknown(seen: str, other: str) -> None:
    vocabulary = Vocabulary.of(seen, "char")
    shown = "".join(c if c in seen else UNKNOWN for c in other)
    assert vocabulary.decode(vocabulary.encode(other).tolist()) == shown
    assert vocabulary.unknown_in(other).total() == sum(c not in seen for c in other)


def test_more_than_255_characters_need_two_bytes() -> None:
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
