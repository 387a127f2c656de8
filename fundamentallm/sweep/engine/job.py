"""What a worker tells a trial, and what the trial answers: all that passes between them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fundamentallm.config.parsing import DATA
from fundamentallm.data.builtin_corpus import BUILTIN
from fundamentallm.status import RunStatus

if TYPE_CHECKING:  # a trial's process imports this file, and starts at once
    from fundamentallm.sweep.engine.concurrency import Resources
    from fundamentallm.sweep.search.base import Values
    from fundamentallm.sweep.search.space import SearchSpace
    from fundamentallm.sweep.store.definition import SweepDefinition
    from fundamentallm.sweep.store.records import Run
    from fundamentallm.sweep.store.sweep_folder import SweepFolder


@dataclass(frozen=True)
class TextSource:
    """The text of every run, if it is the same for all; else where to find those it names."""

    path: str | None
    """None is the built-in text."""
    name: str
    sha256: str
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Of the texts that the sweep itself names, as far as they were there when it was made."""
    folder: str = ""
    """Where the sweep was made: paths that it names begin there, if they can be found there."""

    @classmethod
    def of(cls, definition: SweepDefinition, path: str | None) -> TextSource:
        """The texts of a sweep; `path` is where its one text lies on this machine."""
        return cls(
            path,
            definition.data_name,
            definition.data_sha256,
            definition.texts or {},
            definition.texts_from or "",
        )

    def text(self, named: str | None) -> tuple[str | None, str, str]:
        """Path, name and hash of a run's text; `named` is what the sweep itself calls it, if so."""
        name, sha256 = self.name, self.sha256
        place = None if self.path is None else Path(self.path)
        if named is not None:
            name, sha256 = named, self.hashes.get(named, "")
            path = os.path.expanduser(named)
            there = Path(self.folder, path)
            place = there if self.folder and there.exists() else Path(path)
        is_file = place is not None and str(place) != BUILTIN
        return str(place.absolute()) if place and is_file else None, name, sha256


@dataclass(frozen=True)
class Job:
    """One attempt at a run, for a process of its own."""

    folder: Path
    """The run's, absolute. It is there; if it holds a checkpoint, the run goes on from it."""
    settings: Mapping[str, Any]
    """Hyperparameters that are not left to their default."""
    data: str | None
    """The path of the text; None for the built-in one."""
    data_name: str
    data_sha256: str
    """Empty if the sweep itself says which text, and it was not there when that was made."""
    tokens: Path
    """Where encoded texts are kept for every trial of the sweep; from the run's own folder, which
    is beside it wherever the sweep is moved."""
    threads: int
    device: str
    visible_gpu: str | None
    """CUDA_VISIBLE_DEVICES, where workers share GPUs out."""
    patience: float
    """Seconds without a step that may always pass before it is said to hang."""
    identity: tuple[int, int] | None = None
    """Of the folder, if it is the run's own: another that comes into its place is not entered."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """For W&B's client; empty for a trial that does not show itself there."""
    wandb: Mapping[str, Any] | None = None
    """`WandbTracker`'s arguments."""


class JobMaker:
    """What all runs of a sweep have in common on this machine."""

    def __init__(
        self,
        folder: SweepFolder,
        points: SearchSpace,
        data: TextSource,
        means: Resources,
        *,
        patience: float,
        wandb: Callable[[int, Values], tuple[Mapping[str, str], Mapping[str, Any]]] | None = None,
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

    def job(self, run: Run, slot: int) -> Job:
        """For the process that has `slot`.

        Raises:
            ConfigError: A value is none that a hyperparameter can have.
            DiskError: The run's folder is gone.
        """
        settings = self.points.settings(run.values)
        named = settings.pop(DATA, None)
        path, name, sha256 = self.data.text(None if named is None else str(named))
        environment, wandb = self.wandb(run.number, run.values) if self.wandb else ({}, None)
        folder = self.folder.run(run.number)
        gpus, device = self.means.gpus, self.means.device
        if gpus:  # of which a trial sees one, its first
            device = device.partition(":")[0]
        return Job(
            folder=folder.path,
            identity=folder.identity(),
            settings=settings,
            data=path,
            data_name=name,
            data_sha256=sha256,
            tokens=Path("..", self.folder.tokens.name),
            threads=self.means.threads,
            device=device,
            patience=self.patience,
            visible_gpu=gpus[slot % len(gpus)] if gpus else None,
            environment=environment,
            wandb=wandb,
        )


@dataclass(frozen=True)
class Heartbeat:
    """Sent every few seconds, whatever else the trial is doing."""


@dataclass(frozen=True)
class Row:
    """A row of metrics."""

    step: int
    total_steps: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """The trial is over, and its files are written."""

    status: RunStatus
    """`done`, `diverged`, `interrupted`, `impossible`, `failed`, `hung` or `oom`."""
    stopped_by: str
    """As in summary.json; for `failed`, what went wrong."""
    disk: bool = False
    """Whether it was stopped by a disk that cannot be written."""
    undelivered: str = ""
    """What W&B did not receive, in one line; empty if nothing is missing."""


@dataclass(frozen=True)
class Stop:
    """From the worker: save, and end."""

    reason: str
