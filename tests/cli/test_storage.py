"""Storage of a sweep: which address a command uses."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Run
from tiny_sweep import FLAGS, grid, start


def agent(folder: Path, *arguments: object, **environment: str) -> tuple[int, str]:
    """The exit code of `fundamentallm agent`, run in that folder, and what it says."""
    process = start(folder, "agent", *arguments, **environment)
    said, _ = process.communicate()
    return process.returncode, said


def test_an_agent_keeps_to_the_storage_of_the_folder(
    run: Run, tmp_path: Path, text_file: Path
) -> None:
    (tmp_path / "t.yaml").write_text(grid(rates=1))
    assert run("sweep", "t.yaml", text_file, "--count=1", "--", *FLAGS).returncode == 0
    other = f"sqlite:///{tmp_path}/other.db"
    code, said = agent(tmp_path, "runs/t", FUNDAMENTALLM_STORAGE=other)
    assert code == 2
    assert "its runs are stored in" in said
    assert not (tmp_path / "other.db").exists()


def test_sqlite_elsewhere_is_refused(
    run: Run, tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later start would not find the sweep, and would start over its runs."""
    (tmp_path / "t.yaml").write_text(grid(rates=1, seeds=1))
    monkeypatch.setenv("FUNDAMENTALLM_STORAGE", f"sqlite:///{tmp_path}/other.db")
    done = run("sweep", "t.yaml", text_file, "--", *FLAGS)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "SQLite is stored only in the sweep's folder" in done.stderr
    assert not (tmp_path / "runs").exists()
