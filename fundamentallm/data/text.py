"""Read a text: UTF-8 from a file, or the built-in corpus. A long text is never held in memory."""

from __future__ import annotations

import codecs
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fundamentallm.data.builtin_corpus import BUILTIN, builtin_corpus
from fundamentallm.errors import FundamentallmError
from fundamentallm.files import encoding
from fundamentallm.files.atomic import OF_A_PROCESS
from fundamentallm.files.encoding import PIECE

STDIN = "/dev/stdin"
"""Paths of a process's own input, which differ for every process."""
BYTE_ORDER_MARK = "\ufeff"
HELD = 1 << 24  # bytes; a longer file is read again for every pass over it


class DataError(FundamentallmError):
    """A text cannot be read, or is too short."""


@dataclass(frozen=True)
class Text:
    """A text with its name and the SHA-256 of its UTF-8."""

    name: str
    sha256: str
    length: int
    """Characters."""
    pieces: Callable[[], Iterable[str]] = field(compare=False, repr=False)
    """Function that yields the whole text in pieces."""

    @classmethod
    def of(cls, content: str, name: str = "text") -> Text:
        """Wrap a string; lone surrogates, which UTF-8 cannot write, are hashed as they are."""
        return _measured(name, lambda: [content])

    @property
    def content(self) -> str:
        """Return the whole text as one string."""
        return "".join(self.pieces())

    def part(self, start: int, stop: int) -> Iterator[str]:
        """Yield the characters from `start` to before `stop`, in pieces.

        Raises:
            DataError: The file has become shorter since its length was measured.
        """
        position = 0
        for piece in self.pieces():
            if position >= stop:
                break
            wanted = piece[max(0, start - position) : stop - position]
            position += len(piece)
            if wanted:
                yield wanted
        if position < stop:
            raise DataError(f"{self.name}: became shorter while being read; try again")


def read_text(path: str | Path | None) -> Text:
    r"""Read a UTF-8 file; the built-in corpus if `path` is None or `"built-in"`; stdin if `"-"`.

    Byte-order marks are dropped, also between files that were joined; `\r\n` and `\r` become `\n`,
    as in Python's text mode.

    Raises:
        DataError: The file is missing, empty, binary, or not UTF-8 (with the byte offset).
    """
    if path is None or str(path) == BUILTIN:
        return Text.of(builtin_corpus(), BUILTIN)
    path = STDIN if str(path) == "-" else path
    path = Path(os.path.expanduser(path))  # also the name in a sweep file
    try:
        str(path).encode()
    except UnicodeEncodeError:  # config.yaml could not store it
        raise DataError(f"{str(path)!a}: this name is not UTF-8; rename the file") from None
    try:
        if path.is_file() and path.stat().st_size > HELD:
            text = _measured(str(path), lambda: _decoded(path))
        else:  # short, or a pipe that can be read only once
            held = list(_decoded(path))
            text = _measured(str(path), lambda: held)
        if not any(piece.strip() for piece in text.pieces()):
            raise DataError(f"{path}: there is no text in it; give a UTF-8 text file")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give a UTF-8 text file") from None
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}; give a UTF-8 text file that can be read"
        ) from None
    return text


def is_read_once(path: str | Path) -> bool:
    """Return whether a text can be read only once: from a pipe or this process's input."""
    name = str(path)
    return name.startswith(OF_A_PROCESS) or (os.path.exists(name) and not os.path.isfile(name))


def read_lasting_text(path: str | Path | None) -> Text:
    """Read a text that other processes will read again.

    Raises:
        DataError: The text cannot be read, or only once.
    """
    typed = STDIN if str(path) == "-" else os.path.expanduser(str(path))
    # Opening it could block: a pipe in someone else's folder may have no writer.
    if path is not None and is_read_once(typed) and not os.path.isdir(typed):
        raise DataError(
            f"{typed}: it can be read only once, and every run of a sweep reads the text; "
            "save it to a file and give that"
        )
    return read_text(path)


def _measured(name: str, pieces: Callable[[], Iterable[str]]) -> Text:
    """Return a text, with its length and hash measured in one pass."""
    length, digest = 0, hashlib.sha256()
    for piece in pieces():
        length += len(piece)
        digest.update(piece.encode("utf-8", "surrogatepass"))
    return Text(name, digest.hexdigest(), length, pieces)


def _decoded(path: Path) -> Iterator[str]:
    """Yield a file's text in pieces; raise an error that says what else its bytes look like."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")(), translate=True)
    read = 0
    with path.open("rb") as file:
        while True:
            raw = file.read(PIECE)
            if read == 0 and (wide := encoding.marked_encoding(raw)):
                raise DataError(
                    f"{path}: this is {wide}; convert it: {encoding.convert(path, wide)}"
                )
            zero = raw.find(b"\x00")
            if zero >= 0:
                raise DataError(
                    f"{path}: a zero byte at offset {read + zero}, {_of_zeros(path, raw)}"
                )
            read += len(raw)
            try:
                piece = decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                at = read - len(error.object) + error.start  # it may begin in the previous piece
                raise DataError(
                    f"{path}: not UTF-8: byte 0x{error.object[error.start]:02x} at offset {at}; "
                    f"{encoding.advice(path, error.object)}"
                ) from None
            if piece := piece.replace(BYTE_ORDER_MARK, ""):
                yield piece
            if not raw:
                return


def _of_zeros(path: Path, raw: bytes) -> str:
    """Describe a file with zero bytes, and what to do."""
    wide = encoding.wide_encoding(raw)
    if not wide:
        return "so this is binary; give a UTF-8 text file"
    return f"so this is likely {wide}; convert it: {encoding.convert(path, wide)}"
