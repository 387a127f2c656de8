"""The built kernels.c is code: what another user could have put in its place is never run."""

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
LOADED = "from fundamentallm.model.native import kernels; print(kernels() is not None)"
SWAPPED = f"""\
import os
from fundamentallm.model import native as module
whose = module._is_ours
def swap(found):
    ours = whose(found)
    os.replace(os.environ["PLANTED"], os.environ["LIBRARY"])
    module._is_ours = whose
    return ours
module._is_ours = swap
try:
    {LOADED}
except AttributeError:
    pass
"""


@pytest.fixture(autouse=True)
def built() -> None:
    need_kernels()


def loaded(cache: Path, code: str = LOADED, **others: str) -> subprocess.CompletedProcess[str]:
    own = {**os.environ, "XDG_CACHE_HOME": str(cache), "TOUCHED": str(cache / "run"), **others}
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True)
    assert not (cache / "run").exists(), "what was planted was run"
    return done


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """As it is built for this machine."""
    assert loaded(tmp_path / "safe").stdout == "True\n"
    (library,) = (tmp_path / "safe/fundamentallm/kernels").glob("*.so")
    return library


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    source, made = tmp_path / "planted.c", tmp_path / "planted.so"
    source.write_text(PLANTED)
    compiler = shutil.which("gcc") or shutil.which("cc") or "clang"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source], check=True)
    return made


@pytest.mark.parametrize("open_to_all", ["shared", "shared/fundamentallm", "."])
def test_a_library_below_a_folder_that_others_write_is_not_run(
    open_to_all: str, library: Path, planted: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shared/fundamentallm/kernels"
    folder.mkdir(parents=True)
    shutil.copy2(planted, folder / library.name)
    (tmp_path / open_to_all).chmod(0o777)
    done = loaded(tmp_path / "shared")
    assert done.stdout == "True\n"
    assert f"{tmp_path / open_to_all} can be written by others" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == [library.name]


def test_a_folder_where_names_stay_their_owners_will_do(library: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)  # as /tmp is
    assert loaded(tmp_path / "safe").stderr == ""


def test_nothing_is_built_where_temporary_files_are_open_to_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "temporary").mkdir()
    done = loaded(tmp_path / "cache", TMPDIR=str(tmp_path / "temporary"))
    assert done.stdout == "False\n"
    assert f"{tmp_path} can be written by others; training continues without it" in done.stderr


def test_a_library_that_is_swapped_after_it_was_looked_at_is_not_run(
    library: Path, planted: Path, tmp_path: Path
) -> None:
    done = loaded(tmp_path / "safe", SWAPPED, PLANTED=str(planted), LIBRARY=str(library))
    assert done.stdout == "True\n", done.stderr
    assert not planted.exists()


def test_a_library_that_is_a_link_is_not_run(library: Path, planted: Path, tmp_path: Path) -> None:
    library.unlink()
    library.symlink_to(planted)
    assert loaded(tmp_path / "safe").stdout == "False\n"
