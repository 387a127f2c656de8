"""Text that is safe to print."""

from __future__ import annotations

import pytest
from odd_characters import HARMFUL, HARMLESS

from fundamentallm.printable import printable


@pytest.mark.parametrize("character", HARMLESS)
def test_harmless_characters_stay(character: str) -> None:
    assert printable(character) == character


@pytest.mark.parametrize("character", HARMFUL)
def test_harmful_characters_are_replaced(character: str) -> None:
    assert printable(f"a{character}b") == "a\ufffdb"


def test_line_breaks_are_replaced_on_one_line() -> None:
    assert printable("a\n\tb", lines=False) == "a\ufffd\ufffdb"
