"""From a run of a sweep to the order that its process is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fundamentallm.sweep.crew import Means
from fundamentallm.sweep.order import Data, Order
from fundamentallm.sweep.points import DATA, Points
from fundamentallm.sweep.records import Run
from fundamentallm.sweep.search import Values
from fundamentallm.sweep.sweep_folder import SweepFolder

Wandb = Callable[[int, Values], tuple[Mapping[str, str], Mapping[str, Any]]]


class Orders:
    """What all runs of a sweep have in common on this machine."""

    def __init__(
        self,
        folder: SweepFolder,
        points: Points,
        data: Data,
        means: Means,
        *,
        patience: float,
        wandb: Wandb | None = None,
    ) -> None:
        """What runs share.

        Args:
            folder: Where runs are written.
            points: From values to settings.
            data: The text.
            means: What this machine gives.
            patience: Seconds without a step that may always pass.
            wandb: Gives the environment and the tracker's arguments of a run; None for no W&B.
        """
        self.folder, self.points, self.data, self.means = folder, points, data, means
        self.patience, self.wandb = patience, wandb

    def order(self, run: Run, slot: int) -> Order:
        """For the process that has `slot`.

        Raises:
            ConfigError: A value is none that a hyperparameter can have.
        """
        settings = self.points.settings(run.values)
        named = settings.pop(DATA, None)
        path, name, sha256 = self.data.text(None if named is None else str(named))
        environment, wandb = self.wandb(run.number, run.values) if self.wandb else ({}, None)
        gpus, device = self.means.gpus, self.means.device
        if gpus:  # of which a trial sees one, its first
            device = device.partition(":")[0]
        return Order(
            folder=self.folder.run(run.number).path,
            settings=settings,
            data=path,
            data_name=name,
            data_sha256=sha256,
            tokens=self.folder.tokens,
            threads=self.means.threads,
            device=device,
            patience=self.patience,
            visible_gpu=gpus[slot % len(gpus)] if gpus else None,
            environment=environment,
            wandb=wandb,
        )
