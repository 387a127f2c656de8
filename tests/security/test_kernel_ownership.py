"""The built kernels.c is code: a library that another user could have planted is never loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import need_kernels

PLANTED = """\
#include <fcntl.h>
#include <stdlib.h>
__attribute__((constructor)) static void run(void) { creat(getenv("TOUCHED"), 0600); }
"""
LOAD = "from fundamentallm.model.native import kernels; print(kernels() is not None)"
SWAP = f"""\
import os
from fundamentallm.model import native as module
is_ours = module._is_ours
def swap(handle):
    ours = is_ours(handle)
    os.replace(os.environ["PLANTED"], os.environ["LIBRARY"])
    module._is_ours = is_ours
    return ours
module._is_ours = swap
try:
    {LOAD}
except AttributeError:
    pass
"""


@pytest.fixture(autouse=True)
def built() -> None:
    need_kernels()


def load(cache: Path, code: str = LOAD, **others: str) -> subprocess.CompletedProcess[str]:
    own = {**os.environ, "XDG_CACHE_HOME": str(cache), "TOUCHED": str(cache / "run"), **others}
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True)
    assert not (cache / "run").exists(), "the planted library was run"
    return done


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Library built for this machine."""
    assert load(tmp_path / "safe").stdout == "True\n"
    (library,) = (tmp_path / "safe/fundamentallm/kernels").glob("*.so")
    return library


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    source, built_library = tmp_path / "planted.c", tmp_path / "planted.so"
    source.write_text(PLANTED)
    compiler = shutil.which("gcc") or shutil.which("cc") or "clang"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", built_library, source], check=True)
    return built_library


@pytest.mark.parametrize("open_to_all", ["shared", "shared/fundamentallm", "."])
def test_a_library_in_a_folder_writable_by_others_is_not_loaded(
    open_to_all: str, library: Path, planted: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shared/fundamentallm/kernels"
    folder.mkdir(parents=True)
    shutil.copy2(planted, folder / library.name)
    (tmp_path / open_to_all).chmod(0o777)
    done = load(tmp_path / "shared")
    assert done.stdout == "True\n"
    assert f"{tmp_path / open_to_all} can be written by others" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == [library.name]


def test_a_sticky_folder_is_accepted(library: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)  # like /tmp
    assert load(tmp_path / "safe").stderr == ""


def test_nothing_is_built_in_a_temporary_folder_open_to_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "temporary").mkdir()
    done = load(tmp_path / "cache", TMPDIR=str(tmp_path / "temporary"))
    assert done.stdout == "False\n"
    assert f"{tmp_path} can be written by others; training continues without it" in done.stderr


def test_a_library_swapped_after_the_check_is_not_loaded(
    library: Path, planted: Path, tmp_path: Path
) -> None:
    done = load(tmp_path / "safe", SWAP, PLANTED=str(planted), LIBRARY=str(library))
    assert done.stdout == "True\n", done.stderr
    assert not planted.exists()


def test_a_linked_library_is_not_loaded(library: Path, planted: Path, tmp_path: Path) -> None:
    library.unlink()
    library.symlink_to(planted)
    assert load(tmp_path / "safe").stdout == "False\n"
