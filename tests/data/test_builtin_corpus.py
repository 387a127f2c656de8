"""The built-in corpus."""

from __future__ import annotations

from fundamentallm.data.text import read_text


def test_it_is_english_without_tables_or_repeated_paragraphs() -> None:
    text = read_text(None)
    assert text == read_text("built-in")
    assert len(text.content) > 200_000
    assert " the " in text.content
    paragraphs = text.content.split("\n\n")
    assert len(set(paragraphs)) == len(paragraphs)
    assert not any(line.startswith(("|", "+-")) for line in text.content.splitlines())
