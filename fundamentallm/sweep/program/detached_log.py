"""Transaction logs without the id of a sweep that W&B does not know.

The client notes a run's sweep in its log, and W&B refuses a run of an unknown sweep, so that `wandb
sync` would send nothing (wandb issue 8115). No setting of the client leaves the id out. Here the
field gets a number that nobody reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from fundamentallm.sweep.program.log_records import (
    BYTES,
    CHUNK,
    Chunk,
    LogRecords,
    chunk_checksum,
    fields,
)

RUN, SWEEP_ID, UNUSED = 17, 12, 15
"""Fields: the run in a record, its sweep in a run, and one without a meaning there."""


def detach(log: Path, sweep_id: str) -> None:
    """Blank the sweep's id in a log that nobody writes any more.

    Raises:
        TransactionLogError: The file cannot be read, or is no log of a known layout.
        OSError: It cannot be written.
    """
    for chunks in LogRecords(log).read():
        record = b"".join(chunk.data for chunk in chunks)
        for position in _positions(record, sweep_id.encode()):
            _write(log, chunks, position, UNUSED << 3 | BYTES)


def _write(log: Path, chunks: Sequence[Chunk], position: int, byte: int) -> None:
    """Replace a byte of a record."""
    for chunk in chunks:
        if 0 <= position < len(chunk.data):
            data = chunk.data[:position] + bytes([byte]) + chunk.data[position + 1 :]
            header = CHUNK.pack(chunk_checksum(chunk.kind, data), len(data), chunk.kind)
            with log.open("r+b") as file:
                file.seek(chunk.position)
                file.write(header + data)
        position -= len(chunk.data)


def _positions(record: bytes, sweep_id: bytes) -> Iterator[int]:
    """Yield the positions of the sweep's id in a record."""
    with suppress(IndexError):  # no protocol buffer
        for field in fields(record):
            if field.number == RUN:
                for inner in fields(record, field.start, field.end):
                    if inner.number == SWEEP_ID and record[inner.start : inner.end] == sweep_id:
                        yield inner.position
