"""Records of the W&B client's transaction log, which may still grow.

A log has the layout of LevelDB's: blocks of 32 KiB, in which a record is one chunk or several, each
with a checksum. A record is a protocol buffer. Clients from 0.17 to 0.31 write the same layout and
the same fields.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fundamentallm.errors import FundamentallmError

HEADER = b":W&B\xe1\xbe\x00"
"""Start of every log: its name, a number, and the version of the layout."""
BLOCK = 1 << 15
CHUNK = struct.Struct("<IHB")
"""Checksum, length and type."""
FULL, FIRST, LAST = 1, 2, 4
"""Types of chunks, by their place in the record."""
LONGEST_RECORD = 1 << 24
"""Bytes; a longer record is skipped."""
VARIABLE, BYTES = 0, 2
"""Types of values in a protocol buffer: a number, and a text or another buffer."""
SIZES = {1: 8, 5: 4}
"""Bytes of a value of another type."""


class TransactionLogError(FundamentallmError):
    """A log cannot be read."""


class Chunk(NamedTuple):
    """Part of a record, and its position in the file."""

    position: int
    kind: int
    data: bytes


class Field(NamedTuple):
    """Field of a protocol buffer: its number, its position, and the range of its value."""

    number: int
    position: int
    start: int
    end: int


class LogRecords:
    """Records of one log, from the first to those that were written last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        """Bytes that were read."""
        self.chunks: list[Chunk] = []
        """Chunks of a record that is not complete yet."""

    def read(self, most: int | None = None) -> Iterator[list[Chunk]]:
        """Yield new complete records, of `most` bytes or all; none if the log was removed.

        A chunk that is cut short is read again by the next call.

        Raises:
            TransactionLogError: The file cannot be read, or is no log of a known layout.
        """
        try:
            if self.path.stat().st_size <= max(self.position, len(HEADER)):
                return
            with self.path.open("rb") as file:
                yield from self._read(file, most)
        except FileNotFoundError:
            return
        except OSError as error:
            raise TransactionLogError(f"{self.path}: {error.strerror}") from None

    def _read(self, file: BinaryIO, most: int | None) -> Iterator[list[Chunk]]:
        if not self.position:
            if file.read(len(HEADER)) != HEADER:
                raise TransactionLogError(
                    f"{self.path}: not a transaction log of W&B's client as we know it; "
                    "let the program write JSON lines instead, and name their file with --metrics"
                )
            self.position = len(HEADER)
        end = None if most is None else self.position + most
        file.seek(self.position)
        while end is None or self.position < end:
            chunk = self._chunk(file)
            if chunk is None:
                return
            if chunk.kind in (FULL, FIRST):
                self.chunks = []
            elif not self.chunks:  # its start was damaged or too long
                continue
            self.chunks.append(chunk)
            if sum(len(each.data) for each in self.chunks) > LONGEST_RECORD:
                self.chunks = []
            elif chunk.kind in (FULL, LAST):
                complete, self.chunks = self.chunks, []
                yield complete

    def _chunk(self, file: BinaryIO) -> Chunk | None:
        """Return the next chunk and move past it; None if there is none yet.

        A damaged chunk is skipped, with the rest of its block, once the log continues after it.
        """
        while True:
            left = BLOCK - self.position % BLOCK
            if left >= CHUNK.size:
                header = file.read(CHUNK.size)
                if len(header) < CHUNK.size:
                    return None
                checksum, length, kind = CHUNK.unpack(header)
                data = file.read(min(length, left - CHUNK.size))
                if len(data) == length and checksum == chunk_checksum(kind, data):
                    position, self.position = self.position, self.position + CHUNK.size + length
                    return Chunk(position, kind, data)
            file.seek(self.position + left)
            if not file.read(1):
                return None
            self.position += left
            if left >= CHUNK.size:
                self.chunks = []
            file.seek(self.position)


def chunk_checksum(kind: int, data: bytes) -> int:
    """Return the checksum of a chunk."""
    return zlib.crc32(data, zlib.crc32(bytes([kind])))


def fields(data: bytes, position: int = 0, end: int | None = None) -> Iterator[Field]:
    """Yield the fields of a protocol buffer.

    Raises:
        IndexError: The buffer is cut short, or is none.
    """
    end = len(data) if end is None else end
    while position < end:
        start = position
        key, position = variable_number(data, position)
        kind = key & 7
        if kind == BYTES:
            size, position = variable_number(data, position)
            after = position + size
        elif kind == VARIABLE:
            after = variable_number(data, position)[1]
        elif kind in SIZES:
            after = position + SIZES[kind]
        else:
            raise IndexError(kind)
        if after > end:
            raise IndexError(after)
        yield Field(key >> 3, start, position, after)
        position = after


def variable_number(data: bytes, position: int) -> tuple[int, int]:
    """Return a number of variable length, and the position after it.

    Raises:
        IndexError: It is cut short, or too long.
    """
    byte = data[position]
    if byte < 0x80:
        return byte, position + 1
    value = byte & 0x7F
    for shift in range(7, 64, 7):
        position += 1
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
    raise IndexError(position)
