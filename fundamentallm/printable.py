"""Text from files and services, made safe to print: nothing in it can redraw a terminal."""

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
    """The text without the characters that could redraw or retitle a terminal, or reorder a line.

    Every other character stays, whether Python counts it as printable or not. Line breaks and tabs
    stay, unless the text must fit on one line.
    """
    text = HARMFUL.sub(REPLACEMENT, text)
    return text if lines else re.sub(r"[\n\t]", REPLACEMENT, text)


def fit_for(stream: TextIO | None, text: str) -> str:
    """The text exactly as it is for a file or a pipe; `printable` for a terminal."""
    return printable(text) if stream is not None and stream.isatty() else text
