"""Jobs of our own trainer: hyperparameters and text of each run."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fundamentallm.config.parsing import DATA
from fundamentallm.data.builtin_corpus import BUILTIN
from fundamentallm.sweep.engine.job import Job, Outcome

if TYPE_CHECKING:  # a trial's process imports this file and has to start fast
    from fundamentallm.files.run_folder import RunFolder
    from fundamentallm.sweep.engine.concurrency import Resources
    from fundamentallm.sweep.engine.trial_pipe import TrialPipe
    from fundamentallm.sweep.search.base import Values
    from fundamentallm.sweep.search.space import SearchSpace
    from fundamentallm.sweep.store.definition import SweepDefinition
    from fundamentallm.sweep.store.records import Run
    from fundamentallm.sweep.store.sweep_folder import SweepFolder


Reuse = Callable[["Run"], "RunFolder | None"]
"""Returns the folder of an earlier run that a run may continue from; None without one.

The trial checks that both are the same so far, and else trains from the start."""


@dataclass(frozen=True)
class TextSource:
    """The text of all runs, or where to find the texts that the sweep names."""

    path: str | None
    """Path of the text; None for the built-in text."""
    name: str
    sha256: str
    hashes: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each text that the sweep names, if it was present when the sweep was created."""
    folder: str = ""
    """Folder in which the sweep was created; paths of texts are first looked up there."""

    @classmethod
    def of(cls, definition: SweepDefinition, path: str | None) -> TextSource:
        """Return the texts of a sweep; `path` is its one text on this machine."""
        return cls(
            path,
            definition.data_name,
            definition.data_sha256,
            definition.texts or {},
            definition.texts_from or "",
        )

    def text(self, named: str | None) -> tuple[str | None, str, str]:
        """Return path, name and hash of a run's text; `named` is the name in the sweep, if any."""
        name, sha256 = self.name, self.sha256
        file = None if self.path is None else Path(self.path)
        if named is not None:
            name, sha256 = named, self.hashes.get(named, "")
            path = os.path.expanduser(named)
            original = Path(self.folder, path)
            file = original if self.folder and original.exists() else Path(path)
        is_file = file is not None and str(file) != BUILTIN
        return str(file.absolute()) if file and is_file else None, name, sha256


@dataclass(frozen=True, kw_only=True)
class TrainerJob(Job):
    """Job of our trainer, which resumes from a checkpoint in the run's folder."""

    settings: Mapping[str, Any]
    """Hyperparameters that differ from their defaults."""
    data: str | None
    """Path of the text; None for the built-in text."""
    data_name: str
    data_sha256: str
    """Empty if the sweep names a text that was missing when the sweep was created."""
    tokens: Path
    """Folder of encoded texts for all trials, relative to the run's folder: the sweep may move."""
    device: str
    wandb: Mapping[str, Any] | None = None
    """`WandbTracker`'s arguments; None without W&B."""
    reuse: Path | None = None
    """Absolute path of an earlier run's folder, to continue from if both are the same so far."""
    end_by: float = math.inf
    """Time of `time.time` by which the run should end, if that is before its `max_minutes`."""

    @property
    def in_wandb_run(self) -> bool:
        """Return whether the trial is a run on W&B."""
        return self.wandb is not None

    def begin(self) -> Callable[[TrialPipe], Outcome]:
        """Return the function that trains, or resumes, in the current folder."""
        from fundamentallm.sweep.engine.trainer_trial import run_trial

        return partial(run_trial, self)


class TrainerJobs:
    """`JobMaker` for a sweep of our trainer."""

    def __init__(
        self,
        folder: SweepFolder,
        space: SearchSpace,
        data: TextSource,
        resources: Resources,
        *,
        hang_timeout: float,
        wandb: Callable[[int, Values], tuple[Mapping[str, str], Mapping[str, Any]]] | None = None,
        reuse: Reuse | None = None,
        end_by: Callable[[], float] = lambda: math.inf,
        tokens: Path | None = None,
    ) -> None:
        """Store what all jobs share.

        Args:
            folder: Folder of the sweep.
            space: Search space of the sweep.
            data: Text of the runs.
            resources: Part of this machine that the sweep uses.
            hang_timeout: Least time without a step after which a trial counts as hung.
            wandb: Returns a run's environment and tracker arguments; None without W&B.
            reuse: Returns an earlier run that a run may continue from.
            end_by: Returns the time of `time.time` by which a run that starts now should end.
            tokens: Folder of encoded texts; by default one in the sweep's folder.
        """
        self.folder, self.space, self.data, self.resources = folder, space, data, resources
        self.hang_timeout, self.wandb, self.reuse = hang_timeout, wandb, reuse
        self.end_by, self.tokens = end_by, tokens or folder.tokens

    def job(self, run: Run, slot: int) -> TrainerJob:
        """Return the job of a run in a slot.

        Raises:
            ConfigError: A value is impossible for its hyperparameter.
            DiskError: The run's folder is gone.
        """
        settings = self.space.settings(run.values)
        named = settings.pop(DATA, None)
        path, name, sha256 = self.data.text(None if named is None else str(named))
        environment, wandb = self.wandb(run.number, run.values) if self.wandb else ({}, None)
        folder = self.folder.run(run.number)
        reused = self.reuse(run) if self.reuse else None
        gpus, device = self.resources.gpus, self.resources.device
        if gpus:  # a trial sees only one, as its first
            device = device.partition(":")[0]
        return TrainerJob(
            folder=folder.path,
            identity=folder.identity(),
            settings=settings,
            data=path,
            data_name=name,
            data_sha256=sha256,
            tokens=Path(os.path.relpath(self.tokens, folder.path)),
            threads=self.resources.threads,
            device=device,
            hang_timeout=self.hang_timeout,
            visible_gpu=gpus[slot % len(gpus)] if gpus else None,
            environment=environment,
            wandb=wandb,
            reuse=reused and reused.path.absolute(),
            end_by=self.end_by(),
        )

    def resumes(self, run: Run) -> bool:
        """Return whether the run's folder has a checkpoint."""
        return self.folder.run(run.number).last.exists()

    def why_restarted(self, run: Run) -> str:
        """Return where the checkpoint of a run with earlier rows is."""
        return "its checkpoint is not on this machine"
