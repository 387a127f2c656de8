"""Make text from files and services safe to print, so that it cannot redraw a terminal."""

from __future__ import annotations

import re
from typing import TextIO

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
HARMFUL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters
    r"\u2028\u2029"  # line and paragraph separators
    r"\u202a-\u202e\u2066-\u2069"  # bidirectional embeddings, overrides and isolates
    r"\ud800-\udfff]"  # halves of characters, which no output can encode
)


def printable(text: str, *, lines: bool = True) -> str:
    """Replace characters that could redraw or retitle a terminal, or reorder a line.

    All other characters stay, printable to Python or not. Line breaks and tabs stay if `lines`.
    """
    text = HARMFUL.sub(REPLACEMENT, text)
    return text if lines else re.sub(r"[\n\t]", REPLACEMENT, text)


def fit_for(stream: TextIO | None, text: str) -> str:
    """Return the text unchanged for a file or a pipe, and `printable` for a terminal."""
    return printable(text) if stream is not None and stream.isatty() else text
