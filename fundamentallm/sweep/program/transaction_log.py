"""Transaction logs of the W&B client: what a program logs, read while it runs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from fundamentallm.sweep.program.logged import Logged


class TransactionLogs:
    """All logs that a run's program writes below `wandb_dir`, found when they appear.

    `ignore` names folders of logs that earlier attempts wrote.
    """

    def __init__(self, wandb_dir: Path, run_id: str, *, ignore: Collection[Path] = ()) -> None:
        self.wandb_dir, self.run_id = wandb_dir, run_id
        self.ignore = set(ignore)
        self.exists = False
        """A log has appeared: the program uses W&B."""

    def read(self) -> Logged:
        """Return everything new, without waiting."""
        return Logged()

    def finish(self, timeout: float) -> Logged:
        """Return the rest after the program ended; wait at most `timeout` seconds for its end."""
        return Logged()

    def close(self) -> None:
        """Stop reading."""
