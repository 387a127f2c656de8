"""Transaction logs without the id of a sweep that W&B does not know.

The client notes a run's sweep in its log, and W&B refuses a run of an unknown sweep, so that `wandb
sync` would send nothing (wandb issue 8115). No setting of the client leaves the id out. Here the
field gets a number that nobody reads.

A log has the layout of LevelDB's: blocks of 32 KiB, in which a record is one chunk or several, each
with a checksum. A record is a protocol buffer.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

HEADER = b":W&B"
LENGTH_OF_HEADER = 7
BLOCK = 1 << 15
CHUNK = struct.Struct("<IHB")
"""Checksum, length and type."""
FULL, FIRST, LAST = 1, 2, 4
"""Types of chunks, by their place in the record."""
RUN, SWEEP_ID, UNUSED = 17, 12, 15
"""Fields: the run in a record, its sweep in a run, and one without a meaning there."""
VARIABLE, TEXT = 0, 2
"""Types of values in a protocol buffer: a number, and a text or another buffer."""
SIZES = {1: 8, 5: 4}
"""Bytes of a value of another type."""


class Chunk(NamedTuple):
    """Part of a record, and its position in the file."""

    position: int
    kind: int
    data: bytes


def detach(log: Path, sweep_id: str) -> None:
    """Blank the sweep's id in a log that nobody writes any more.

    A log of another layout is left as it is.

    Raises:
        OSError: The file cannot be read or written.
    """
    if log.stat().st_size <= LENGTH_OF_HEADER:
        return
    with (
        log.open("r+b") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        for chunks in [chunks for chunks in _records(content) if _is_of_the_run(chunks[0].data)]:
            record = b"".join(chunk.data for chunk in chunks)
            for position in _positions(record, sweep_id.encode()):
                _write(file, chunks, position, UNUSED << 3 | TEXT)


def _write(file: BinaryIO, chunks: Sequence[Chunk], position: int, byte: int) -> None:
    """Replace a byte of a record."""
    for chunk in chunks:
        if 0 <= position < len(chunk.data):
            data = chunk.data[:position] + bytes([byte]) + chunk.data[position + 1 :]
            file.seek(chunk.position)
            file.write(CHUNK.pack(_checksum(chunk.kind, data), len(data), chunk.kind) + data)
        position -= len(chunk.data)


def _records(content: mmap.mmap) -> Iterator[list[Chunk]]:
    """Yield the complete records of a log; stop at the first chunk that is invalid."""
    if content[: len(HEADER)] != HEADER:
        return
    chunks: list[Chunk] = []
    position, size = LENGTH_OF_HEADER, len(content)
    while position + CHUNK.size <= size:
        left = BLOCK - position % BLOCK
        if left < CHUNK.size:  # too few for a chunk
            position += left
            continue
        checksum, length, kind = CHUNK.unpack_from(content, position)
        start = position + CHUNK.size
        data = content[start : start + length]
        if len(data) < length or checksum != _checksum(kind, data):
            return
        if kind in (FULL, FIRST):
            chunks = []
        chunks.append(Chunk(position, kind, data))
        if kind in (FULL, LAST):
            yield chunks
        position = start + length


def _checksum(kind: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(bytes([kind])))


def _is_of_the_run(start_of_record: bytes) -> bool:
    with suppress(IndexError):  # its other fields are in the next chunk
        return any(field == RUN for field, *_ in _fields(start_of_record))
    return False


def _positions(record: bytes, sweep_id: bytes) -> Iterator[int]:
    """Yield the positions of the sweep's id in a record."""
    with suppress(IndexError):  # no protocol buffer
        for field, _, start, end in _fields(record):
            if field == RUN:
                for inner, position, first, last in _fields(record, start, end):
                    if inner == SWEEP_ID and record[first:last] == sweep_id:
                        yield position


def _fields(
    data: bytes, position: int = 0, end: int | None = None
) -> Iterator[tuple[int, int, int, int]]:
    """Yield fields of a protocol buffer: number, position, and the range of the value.

    Raises:
        IndexError: The buffer is cut short.
    """
    end = len(data) if end is None else end
    while position < end:
        start = position
        key, position = _number(data, position)
        if key & 7 == VARIABLE:
            after = _number(data, position)[1]
        elif key & 7 == TEXT:
            size, position = _number(data, position)
            after = position + size
        else:
            after = position + SIZES.get(key & 7, 0)
        yield key >> 3, start, position, after
        position = after


def _number(data: bytes, position: int) -> tuple[int, int]:
    """Return a number of variable length, and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
