"""Shared fixtures. The thread count is set before torch is imported, here and in children."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # suites run in parallel, and results depend on it

import pytest
from hypothesis import settings

from fundamentallm.config.hyperparameters import Config
from fundamentallm.model import native

# A background job or nohup ignores these signals, and every process a test starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("no clock", deadline=None)  # these machines are shared
settings.load_profile("no clock")

ROOT = Path(__file__).parent.parent
TEXT = "".join(f"The {n} cats sat on mat {n * 7 % 13}.\nWhy? Nobody knows.\n" for n in range(300))
TINY = {
    "model_dim": 16,
    "num_layers": 2,
    "num_heads": 2,
    "max_seq_len": 16,
    "batch_size": 4,
    "max_steps": 24,
    "eval_every": 8,
}


def nightly(*values: Any) -> Any:
    """Mark parameters of a test that only .ci/nightly runs."""
    return pytest.param(*values, marks=pytest.mark.nightly)


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def tiny() -> Config:
    """Config of a run that takes half a second."""
    return Config(**TINY)


@pytest.fixture
def tiny_flags() -> list[str]:
    """Flags of the same run."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]


@pytest.fixture
def text() -> str:
    """About 11,000 characters of easy English."""
    return TEXT


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """File with the same text."""
    path = tmp_path / "cats.txt"
    path.write_text(TEXT, "utf-8")
    return path


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test its own cache and state; all tests share the built kernels."""
    cache = tmp_path_factory.mktemp("cache")
    kernels = tmp_path_factory.getbasetemp().parent / "kernels"
    kernels.mkdir(mode=0o700, exist_ok=True)
    (cache / "fundamentallm").mkdir()
    (cache / "fundamentallm/kernels").symlink_to(kernels)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture(autouse=True)
def no_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable W&B, except in tests that enable it."""
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture(autouse=True)
def no_leftover_sweep() -> Iterator[None]:
    """Kill the processes that a test left running."""
    yield
    if "tiny_sweep" in sys.modules:
        sys.modules["tiny_sweep"].kill_leftovers()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `fundamentallm ARGUMENTS` in its own process, in a folder with train.py."""
    shutil.copy2(ROOT / "train.py", tmp_path)

    def command(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "fundamentallm", *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)

    return command


@pytest.fixture
def ordinary_user() -> list[str]:
    """Command prefix that makes file permissions apply to root too."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv"):
        return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail("needs setpriv, and REQUIRE_ALL=1 allows no skip")
    pytest.skip("root ignores file permissions, and setpriv is not installed")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """File system of 8 MB; only root can mount it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=200", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode != 0:
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail("needs to mount a tmpfs, and REQUIRE_ALL=1 allows no skip")
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Fill the disk with one file and return it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    return ballast


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium of the system."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail("needs chromium, and REQUIRE_ALL=1 allows no skip")
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def need_kernels() -> None:
    """Skip the test if no C compiler can build kernels.c; CI allows no skip."""
    if native.kernels() is None:
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail("needs a C compiler, and REQUIRE_ALL=1 allows no skip")
        pytest.skip("no C compiler is installed")


def need_program(name: str) -> None:
    """Skip the test if a program is not installed; CI allows no skip."""
    if shutil.which(name) is None:
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail(f"needs {name}, and REQUIRE_ALL=1 allows no skip")
        pytest.skip(f"{name} is not installed")
