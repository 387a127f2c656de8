"""Wait for a full disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from fundamentallm.files.atomic import DiskError
from fundamentallm.sweep.engine.disk_wait import DiskWait


def test_room_for_small_files_does_not_end_the_wait_for_a_disk(tmp_path: Path) -> None:
    disk = DiskWait(tmp_path, 0.0, lambda _: None)
    disk.write_failed(1, "last.pt cannot be written")
    assert disk.is_waiting
    assert disk.has_room()  # for something small
    assert not disk.is_waiting
    disk.write_failed(2, "last.pt cannot be written")  # another run
    with pytest.raises(DiskError, match="make room, then resume with"):
        disk.write_failed(1, "last.pt cannot be written")
    disk.write_succeeded(1)
    disk.write_failed(1, "last.pt cannot be written")


def test_a_disk_without_room_for_a_checkpoint_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run-0001").mkdir()
    (tmp_path / "run-0001/last.pt").write_bytes(bytes(2000))
    disk = DiskWait(tmp_path, 60.0, lambda _: None)
    disk.write_failed(0, "last.pt cannot be written")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1999))
    assert not disk.has_room()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2000))
    assert disk.has_room()
