"""What every test shares. Threads are set before torch is imported, here and in children."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # the suites run side by side, and results depend on it

import pytest
from hypothesis import settings

from fundamentallm.config.hyperparameters import Config
from fundamentallm.model import native

# In the background, or under nohup, they are ignored, and would be by all that tests start.
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
    """Parameters of a test that are left to .ci/nightly."""
    return pytest.param(*values, marks=pytest.mark.nightly)


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def tiny() -> Config:
    """A run of half a second."""
    return Config(**TINY)


@pytest.fixture
def tiny_flags() -> list[str]:
    """The same, as flags."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]


@pytest.fixture
def text() -> str:
    """About 11,000 characters of easy English."""
    return TEXT


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """The same, in a file."""
    path = tmp_path / "cats.txt"
    path.write_text(TEXT, "utf-8")
    return path


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache or state; but kernels are built once for all."""
    cache = tmp_path_factory.mktemp("cache")
    built = tmp_path_factory.getbasetemp().parent / "kernels"
    built.mkdir(mode=0o700, exist_ok=True)
    (cache / "fundamentallm").mkdir()
    (cache / "fundamentallm/kernels").symlink_to(built)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture(autouse=True)
def no_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test talks to W&B unless it says so."""
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture(autouse=True)
def no_sweep_left() -> Iterator[None]:
    """No test meets the processes of the one before."""
    yield
    if "tiny_sweep" in sys.modules:
        sys.modules["tiny_sweep"].end_what_is_left()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `fundamentallm ARGUMENTS` in a process of its own, in a folder that has train.py."""
    shutil.copy2(ROOT / "train.py", tmp_path)

    def command(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "fundamentallm", *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)

    return command


@pytest.fixture
def ordinary_user() -> list[str]:
    """Words before a command by which permissions bind it, as they do not bind root."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv"):
        return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail("needs setpriv, and REQUIRE_ALL=1 allows no skip")
    pytest.skip("root may write anywhere, and there is no setpriv to stop it")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a head."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail("needs chromium, and REQUIRE_ALL=1 allows no skip")
        pytest.skip("there is no chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def need_kernels() -> None:
    """Skip the test where there is no C compiler to build kernels.c; CI allows no skip."""
    if native.kernels() is None:
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail("needs a C compiler, and REQUIRE_ALL=1 allows no skip")
        pytest.skip("there is no C compiler")
