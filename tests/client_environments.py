"""Environments with other W&B clients: the tests' own packages below a client of any version.

    python tests/client_environments.py 0.28.2    # prints the environment's interpreter
    python tests/client_environments.py none      # one without a client
    python tests/client_environments.py           # of the oldest client that keeps every promise

A test runs `environment("0.28.2")`; whole test files run with `-m pytest` of that interpreter.
Environments are kept in $CLIENT_ENVIRONMENTS, or in `.venv-clients/` of this checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable, Sequence
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).parent.parent
NEWEST = "newest"
NONE = "none"
"""Name of the environment without a client."""
OLDEST_FULL = "0.28.0"
NIGHTLY = (NEWEST, "0.30.0", "0.28.2", "0.25.1", "0.23.1", "0.21.4", "0.19.11", "0.18.7")
SCRIPT = """
import fundamentallm, torch
try:
    import wandb
    print(wandb.__version__)
except ModuleNotFoundError:
    print("none")
"""
COMMAND = """\
#!{python}
from fundamentallm.__main__ import main

if __name__ == "__main__":
    main()
"""


def environment(version: str) -> Path:
    """Return the interpreter of an environment with wandb `version`, the `NEWEST`, or `NONE`.

    Several processes may ask for the same environment; the first one makes it, in seconds.
    """
    folder = home() / version
    folder.parent.mkdir(parents=True, exist_ok=True)
    python, complete = folder / "bin/python", folder / "complete.txt"
    layers = shared_paths()
    with FileLock(f"{folder}.lock"):
        if not complete.exists() or complete.read_text() != lines(layers):
            shutil.rmtree(folder, ignore_errors=True)
            make(folder, version, layers)
            complete.write_text(lines(layers))
    return python


def lines(paths: Iterable[Path]) -> str:
    """Return one line for each path."""
    return "".join(f"{path}\n" for path in paths)


def home() -> Path:
    """Return the folder of all environments."""
    return Path(os.environ.get("CLIENT_ENVIRONMENTS") or ROOT / ".venv-clients").absolute()


def shared_paths() -> list[Path]:
    """Return this checkout and the folders from which this environment imports packages."""
    packages = [Path(entry) for entry in sys.path if entry.endswith("site-packages")]
    return [ROOT, *(path for path in packages if not path.is_relative_to(home()))]


def make(folder: Path, version: str, layers: Sequence[Path]) -> None:
    """Install the client with its dependencies; other packages come from `layers`."""
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    if version == NONE:
        layers = [without_client(path, folder / f"layers/{i}") for i, path in enumerate(layers)]
    else:
        wanted = "wandb" if version == NEWEST else f"wandb=={version}"
        pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "-qq", wanted], check=True, stdout=sys.stderr)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "zz_shared.pth").write_text(lines(layers))  # read last, so its own come first
    command = folder / "bin/fundamentallm"
    command.write_text(COMMAND.format(python=python))
    command.chmod(0o755)
    found = subprocess.run([python, "-c", SCRIPT], check=True, capture_output=True, text=True)
    if version not in (NEWEST, found.stdout.strip()):
        raise RuntimeError(f"{folder}: has wandb {found.stdout.strip()}")


def without_client(packages: Path, folder: Path) -> Path:
    """Return a folder with the same packages but W&B's; the checkout has none."""
    if packages == ROOT:
        return packages
    folder.mkdir(parents=True)
    for entry in packages.iterdir():
        if not entry.name.startswith("wandb"):
            (folder / entry.name).symlink_to(entry)
    return folder


if __name__ == "__main__":
    for wanted in sys.argv[1:] or [OLDEST_FULL]:
        print(environment(wanted))
