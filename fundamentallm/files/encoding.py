"""Guess the encoding of a file that is not UTF-8, and suggest a command that converts it."""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

PIECE = 1 << 22  # bytes to read at a time
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark is its beginning
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
WIDE = ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE")
BY_CHANCE = 50
"""Minimum ratio, in an old text, of bytes that are not UTF-8 to pairs that look like it."""
KEEP_UTF8 = (
    'python3 -c \'import codecs, sys; codecs.register_error("old", '
    'lambda e: (e.object[e.start:e.end].decode("cp1252"), e.end)); '
    'sys.stdout.buffer.write(sys.stdin.buffer.read().decode("utf-8", "old").encode())\''
)
"""Program that reads as Windows-1252 only bytes that are not UTF-8."""


def marked_encoding(start: bytes) -> str:
    """Return the encoding that a byte-order mark names, unless it is UTF-8."""
    return next((name for mark, name in MARKS.items() if start.startswith(mark)), "")


def wide_encoding(start: bytes) -> str:
    """Return the encoding of two or four bytes per character that decodes bytes without a mark.

    Return "" if none does.
    """
    start = start[: len(start) // 4 * 4]
    for name in WIDE:
        text = start.decode(name, "replace")
        low = sum(character < "\u3000" for character in text)
        control = any(character < " " and character not in "\n\r\t\f" for character in text)
        if low > 0.9 * len(text) and not control:
            return name
    return ""


def advice(path: Path, at_hand: bytes) -> str:
    """Advise what to do with a file that is not UTF-8; from a pipe only `at_hand` can be read."""
    pieces = _pieces(path) if path.is_file() else [at_hand]
    pairs, longer, other = 0, 0, bytearray()
    for valid, rest in _by_validity(pieces):
        pairs += sum("\x80" <= character < "\u0800" for character in valid)
        longer += sum(character >= "\u0800" for character in valid)
        other += rest
    try:
        other.decode("cp1252")
    except UnicodeDecodeError:
        return f"convert it from its own encoding: {convert(path, 'ENCODING')}"
    if longer or pairs * BY_CHANCE > len(other):
        return (
            f"it is UTF-8 but for {len(other):,} bytes, as if files of two encodings were joined; "
            f"if the others are Western European (Windows-1252): {command(path, KEEP_UTF8)}"
        )
    return (
        f"if it is Western European (Windows-1252), convert it: {convert(path, 'WINDOWS-1252')}"
        "; else with its own encoding after -f"
    )


def convert(path: Path, encoding: str) -> str:
    """Return the command that converts a file to UTF-8."""
    return command(path, f"iconv -f {encoding} -t UTF-8")


def command(path: Path, program: str) -> str:
    """Return the command that runs `program` on the file into a new one; for a pipe, `program`."""
    if not path.is_file():
        return program
    names = (f"{path.stem}.utf8{'' if n == 1 else f'-{n}'}.txt" for n in count(1))
    new = next(name for name in names if not Path(name).exists())
    return f"{program} < {shlex.quote(str(path))} > {shlex.quote(new)}"


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _by_validity(pieces: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """Split each piece into valid UTF-8 and the other bytes."""
    rest = bytearray()

    def skip(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        rest.extend(error.object[error.start : error.end])
        return "", error.end

    codecs.register_error("fundamentallm.skip", skip)
    decoder = codecs.getincrementaldecoder("utf-8")("fundamentallm.skip")
    for piece in pieces:
        valid = decoder.decode(piece)
        yield valid, bytes(rest)
        rest.clear()
    valid = decoder.decode(b"", final=True)
    yield valid, bytes(rest)
