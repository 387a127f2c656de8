"""A folder held open, and what is done within it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fundamentallm.files.held_folder import HeldFolder

HUGE = 1 << 40  # bytes; more than any test machine could copy


@pytest.mark.parametrize("parts", [{}, {0: b"start"}, {0: b"start", 1 << 30: b"middle"}, {7: b"x"}])
@pytest.mark.parametrize("end", [b"", b"the end"])
def test_a_copy_keeps_holes_and_what_lies_between(
    tmp_path: Path, parts: dict[int, bytes], end: bytes
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    with (before / "file").open("wb") as file:
        for place, content in parts.items():
            file.seek(place)
            file.write(content)
        file.truncate(HUGE - len(end))
        file.seek(0, 2)
        file.write(end)
    with HeldFolder(before) as source, HeldFolder(after) as target:
        source.copy("file", target)
    known = (after / "file").stat()
    assert known.st_size == HUGE
    assert known.st_blocks * 512 < 1 << 20
    assert known.st_mtime_ns == (before / "file").stat().st_mtime_ns
    with (after / "file").open("rb") as file:
        for place, content in {**parts, HUGE - len(end): end}.items():
            file.seek(place)
            assert file.read(len(content)) == content


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 3 << 20])
def test_a_copy_is_the_same(tmp_path: Path, size: int) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    (before / "file").write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    with HeldFolder(before) as source, HeldFolder(after) as target:
        source.copy("file", target)
    assert (after / "file").read_bytes() == (before / "file").read_bytes()
