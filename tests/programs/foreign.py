"""Starts sweeps of the foreign programs in this folder, and compares what they logged."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tiny_sweep
import yaml
from conftest import ROOT
from wandb_client import BIN

PROGRAMS = ROOT / "tests/programs"


def place(name: str, folder: Path) -> Path:
    """Copy a program and its sweep file to `folder`, and return the sweep file."""
    shutil.copytree(PROGRAMS / name, folder, dirs_exist_ok=True)
    shutil.copy2(PROGRAMS / "truth.py", folder)
    return folder / "sweep.yaml"


def change(file: Path, **changes: Any) -> Path:
    """Replace top-level keys of a sweep file; None removes one."""
    content = {**yaml.safe_load(file.read_text()), **changes}
    kept = {name: value for name, value in content.items() if value is not None}
    file.write_text(yaml.safe_dump(kept, sort_keys=False))
    return file


def ranges(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Replace every list of numbers by the range that it spans."""
    changed: dict[str, Any] = {}
    for name, entry in parameters.items():
        if "parameters" in entry:
            changed[name] = {"parameters": ranges(entry["parameters"])}
        elif all(isinstance(v, int | float) for v in entry.get("values", [""])) and not any(
            isinstance(v, bool) for v in entry["values"]
        ):
            changed[name] = {"min": min(entry["values"]), "max": max(entry["values"])}
        else:
            changed[name] = entry
    return changed


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a user without W&B settings, whose `python` is this one."""
    inherited = {name: value for name, value in os.environ.items() if name[:6] != "WANDB_"}
    return {**inherited, "PATH": f"{BIN}:{os.environ['PATH']}", **more}


def start(folder: Path, *arguments: object, **more: str) -> subprocess.Popen[str]:
    """Start `fundamentallm ARGUMENTS` in its own process group."""
    words = [sys.executable, "-m", "fundamentallm", *map(str, arguments)]
    process = subprocess.Popen(
        words, cwd=folder, env=environment(**more), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    tiny_sweep.STARTED.append(process)
    return process


def run(folder: Path, *arguments: object, code: int = 0, **more: str) -> str:
    """Run `fundamentallm ARGUMENTS`, check that it exits with `code`, and return its output."""
    process = start(folder, *arguments, **more)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == code, output
    return output


def run_folders(sweep: Path) -> list[Path]:
    """Return the folders of a sweep's runs, in order."""
    return sorted(sweep.glob("run-*"))


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested values under names joined by a dot, as W&B names them."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def is_number(value: Any) -> bool:
    """Return True for a finite number, which a row of metrics may hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def noted(run: Path) -> list[dict[str, Any]]:
    """Return the numbers that a run's program noted, one row a step; the last note counts."""
    rows: dict[int, dict[str, Any]] = {}
    for line in (run / "files/truth.jsonl").read_text().splitlines():
        row = {name: value for name, value in flat(json.loads(line)) if is_number(value)}
        rows[row["step"]] = row
    return list(rows.values())


def summary(run: Path) -> dict[str, Any]:
    """Return a run's summary.json."""
    return json.loads((run / "summary.json").read_text())


def config(run: Path) -> dict[str, Any]:
    """Return a run's config.yaml."""
    return yaml.safe_load((run / "config.yaml").read_text())


def check_numbers(run: Path) -> None:
    """Check that metrics.jsonl has every number that the program logged, and no other.

    A program that was stopped may have noted a last row that it did not come to log.
    """
    rows, truth = tiny_sweep.metric_rows(run), noted(run)
    if summary(run)["stopped_by"] == "hyperband":
        assert len(rows) in (len(truth), len(truth) - 1), run
        truth = truth[: len(rows)]
    assert rows == truth, run


def programs(folder: Path) -> list[int]:
    """Return the processes of programs that sweeps in `folder` started, and of their children."""
    needle = f"FUNDAMENTALLM_RUN_DIR={folder}/".encode()
    return [pid for pid, environ in environments() if needle in environ]


def is_script(pid: int) -> bool:
    """Return True for the process of a Python script, rather than of a service that it started."""
    with suppress(OSError):
        return b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def environments() -> Iterator[tuple[int, bytes]]:
    """Yield every process that can be read, with the environment it was started with."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield int(path.name), (path / "environ").read_bytes()


def supervisors(folder: Path) -> list[int]:
    """Return the processes of trials that run in a run's folder and watch over programs."""
    inside = set(tiny_sweep.processes(f"{folder}/runs/"))
    return sorted(inside & set(tiny_sweep.processes("forkserver")))
