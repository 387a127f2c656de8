"""Reading a text: UTF-8 from a file, or the built-in corpus."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fundamentallm.corpus import NAME as BUILTIN
from fundamentallm.corpus import builtin_corpus
from fundamentallm.errors import FundamentallmError


class DataError(FundamentallmError):
    """A text cannot be read, or is too short for what is asked of it."""


@dataclass(frozen=True)
class Text:
    """A text, where it came from, and the SHA-256 of its UTF-8."""

    name: str
    content: str
    sha256: str

    @classmethod
    def of(cls, content: str, name: str = "text") -> Text:
        """Wrap a string; lone surrogates, which UTF-8 cannot write, are hashed as they are."""
        return cls(
            name, content, hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        )


def read_text(path: str | Path | None) -> Text:
    r"""Read a UTF-8 file, or the built-in corpus if `path` is None or `"built-in"`.

    A byte-order mark is dropped and `\r\n` becomes `\n`, as in Python's text mode.

    Raises:
        DataError: The file is missing, empty, binary, or not UTF-8 (with the byte offset).
    """
    if path is None or str(path) == BUILTIN:
        return Text.of(builtin_corpus(), BUILTIN)
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; give a UTF-8 text file") from None
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}; give a UTF-8 text file that can be read"
        ) from None
    content = _decode(raw, path).replace("\r\n", "\n").replace("\r", "\n")
    if not content.strip():
        raise DataError(f"{path}: there is no text in it; give a UTF-8 text file")
    return Text.of(content, str(path))


def _decode(raw: bytes, path: Path) -> str:
    """Bytes as text, or an error that says what the bytes look like instead."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path}: this is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 {path.name}")
    zero = raw.find(b"\x00")
    if zero >= 0:
        raise DataError(
            f"{path}: a zero byte at offset {zero}, so this is binary or UTF-16; "
            "give a UTF-8 text file"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}; "
            "convert it, e.g. iconv -f LATIN1 -t UTF-8"
        ) from None
