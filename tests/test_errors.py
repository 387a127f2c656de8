"""Messages of exceptions on one line."""

from __future__ import annotations

import pytest

from fundamentallm.errors import one_line, type_and_message


def test_a_message_of_many_lines_fits_on_one() -> None:
    error = ValueError("bad value\n\n  at line 3\tof x")
    assert one_line(error) == "bad value at line 3 of x"
    assert one_line(error, 9) == "bad value"


@pytest.mark.parametrize(
    ("error", "text"), [(KeyError(), "KeyError"), (ValueError("a\nb"), "ValueError: a b")]
)
def test_the_type_comes_before_the_message(error: Exception, text: str) -> None:
    assert type_and_message(error) == text
