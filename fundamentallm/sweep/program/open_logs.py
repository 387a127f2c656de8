"""Transaction logs that this process's descendants have open, found in Linux's /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def open_logs(run_id: str) -> set[Path]:
    """Return the logs of a run that are open; none on other systems than Linux."""
    name = f"/run-{run_id}.wandb"
    return {
        Path(target)
        for process in _descendants(os.getpid())
        for target in _open_files(process)
        if target.endswith(name)
    }


def _descendants(process: int) -> Iterator[int]:
    with suppress(OSError):  # ended, or another system
        for thread in os.listdir(f"/proc/{process}/task"):
            with suppress(OSError), open(f"/proc/{process}/task/{thread}/children") as children:
                for child in map(int, children.read().split()):
                    yield child
                    yield from _descendants(child)


def _open_files(process: int) -> Iterator[str]:
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{process}/fd"):
            with suppress(OSError):
                yield os.readlink(f"/proc/{process}/fd/{descriptor}")
