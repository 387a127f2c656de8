"""The short form of fuzz.py: no input brings anything but an error of the project's own."""

from __future__ import annotations

import pytest
from fuzz import READERS, feed


@pytest.mark.parametrize("name", READERS)
def test_no_input_breaks_a_reader(name: str) -> None:
    fed, refused, _ = feed(name, 300)
    assert fed >= 100
    assert 0 < refused < fed or name == "metrics.jsonl"
