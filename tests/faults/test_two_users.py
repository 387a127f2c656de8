"""Two users share a machine and a folder; the second changes nothing and locks nobody out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TEXT, Run
from tiny_sweep import FLAGS, grid

from fundamentallm.files.held_folder import why_other_owner

OTHER = 65534


@pytest.fixture
def as_another(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `fundamentallm ARGUMENTS` as another ordinary user, who may read Python in root's home.

    That user can enter every folder up to `tmp_path` and write to those inside, as in a group.
    """
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail("needs root and setpriv, and REQUIRE_ALL=1 allows no skip")
        pytest.skip("only root can become another user, by setpriv")
    for folder in tmp_path.parents:
        if folder.stat().st_uid == 0 and "pytest" in str(folder):
            folder.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, OTHER, OTHER)
    read_access = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    user = ["setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups", *read_access]

    def command(*arguments: object) -> subprocess.CompletedProcess[str]:
        for folder in (tmp_path, *tmp_path.rglob("*")):
            if folder.is_dir() and folder != home:
                folder.chmod(0o777)
        own = {"HOME": str(home), "XDG_CACHE_HOME": str(home), "XDG_STATE_HOME": str(home)}
        return subprocess.run(
            [*user, sys.executable, "-m", "fundamentallm", *map(str, arguments)],
            capture_output=True, text=True, cwd=tmp_path, check=False, env={**os.environ, **own},
        )  # fmt: skip

    return command


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Return owner and size of everything in a folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_uid, path.stat().st_size)
        for path in folder.rglob("*")
    }


def test_a_second_user_of_a_sweep_changes_nothing(
    tmp_path: Path, run: Run, as_another: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "g.yaml").write_text(grid(2, 1))
    (tmp_path / "cats.txt").write_text(TEXT)
    sweep = ("sweep", "g.yaml", "cats.txt")
    created = run(*sweep, "--count=1", "--", *FLAGS)
    assert created.returncode == 0, created.stderr
    before = listing(tmp_path / "runs")
    for words in (("agent", "runs/g"), (*sweep, "--", *FLAGS), ("refine", "runs/g", "--epochs=1")):
        refused = as_another(*words)
        assert refused.returncode == 2, refused.stderr
        assert "it belongs to user root, and a folder of runs has one user" in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert listing(tmp_path / "runs") == before
    shown = as_another("explain", "runs/g")
    assert shown.returncode == 0, shown.stderr
    assert "it belongs to user root" in shown.stdout + shown.stderr
    assert listing(tmp_path / "runs") == before
    assert run("agent", "runs/g").returncode == 0
    # A copy belongs to the other user.
    (tmp_path / "runs").chmod(0o777)
    shutil.copytree(tmp_path / "runs/g", tmp_path / "runs/copy")
    for path in (tmp_path / "runs/copy", *(tmp_path / "runs/copy").rglob("*")):
        os.chown(path, OTHER, OTHER)
    assert as_another("agent", "runs/copy").returncode == 0
    refused = run("agent", "runs/copy")  # root is refused too: its files would end up there
    assert refused.returncode == 2
    assert "it belongs to user nobody" in refused.stderr


def test_a_second_user_of_a_run_changes_nothing(
    tmp_path: Path,
    run: Run,
    tiny_flags: list[str],
    as_another: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    (tmp_path / "cats.txt").write_text(TEXT)
    (tmp_path / "out").mkdir()
    os.chown(tmp_path / "out", OTHER, OTHER)  # an empty folder may belong to anyone
    words = ("train", "cats.txt", "--output-dir=out/run", "--no-wandb", *tiny_flags)
    assert run(*words).returncode == 0
    before = listing(tmp_path / "out")
    for flag in ("--resume", "--overwrite"):
        refused = as_another(*words, flag)
        assert refused.returncode == 2, refused.stderr
        assert "a folder of runs has one user" in refused.stderr
        assert listing(tmp_path / "out") == before
    assert as_another("generate", "out/run", "--max-tokens=5").returncode == 0


def test_a_file_system_with_one_owner_for_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows disks under WSL and network disks give every file, also a new one, the same owner."""
    (tmp_path / "study.db").touch()
    monkeypatch.setattr("os.geteuid", lambda: OTHER)
    assert why_other_owner(tmp_path, files=r"study\.db") == ""
    assert why_other_owner(tmp_path / "none", files=r"study\.db") == ""
