"""Jobs of another program: command and environment of each run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fundamentallm.sweep.engine.job import Job, Outcome
from fundamentallm.sweep.program.command import expand, shown
from fundamentallm.sweep.program.environment import run_environment
from fundamentallm.sweep.store.program_settings import ProgramSettings

if TYPE_CHECKING:
    from fundamentallm.sweep.engine.concurrency import Resources
    from fundamentallm.sweep.engine.trial_pipe import TrialPipe
    from fundamentallm.sweep.file.sweep_file import SweepFile
    from fundamentallm.sweep.store.records import Run
    from fundamentallm.sweep.store.sweep_folder import SweepFolder


@dataclass(frozen=True, kw_only=True)
class ProgramJob(Job):
    """Job that starts another program and records what it logs."""

    command: tuple[str, ...]
    """Words of the command; empty for a Python function."""
    shown: str
    """Command to display and store; variables are not replaced."""
    working_folder: str
    """Folder in which the program starts: the one in which the sweep was typed."""
    parameters: Mapping[str, Any]
    """Values as `wandb.config` nests them."""
    flat: Mapping[str, Any]
    """Values by the full names of their parameters."""
    run_id: str
    """Id of the run for W&B's client."""
    parameters_file: Path
    """File of the parameters for W&B's client, relative to the run's folder."""
    metric: str
    """Metric of the sweep; empty if the file gives none."""
    is_unknown_to_wandb: bool
    """True if the id of the sweep is ours, which W&B does not know."""
    settings: ProgramSettings
    script_index: int | None
    """Index of the Python script in the command, for a warm start; None for a new process."""

    @property
    def in_wandb_run(self) -> bool:
        """Return whether the trial is a run for W&B's client; it always is."""
        return True

    def begin(self) -> Callable[[TrialPipe], Outcome]:
        """Return the function that starts the program and follows it to its end.

        The process of a warm start is forked at once, before there are threads.
        """
        from fundamentallm.sweep.engine.program_trial import run_program
        from fundamentallm.sweep.program.process import ProgramProcess

        place = (self.command, self.working_folder, dict(os.environ))
        if self.script_index is None:
            return partial(run_program, self, partial(ProgramProcess, *place))
        from fundamentallm.sweep.program.warm import WarmProcess

        return partial(run_program, self, WarmProcess(*place, self.script_index).start)


class ProgramJobs:
    """`JobMaker` for a sweep of another program."""

    def __init__(
        self,
        folder: SweepFolder,
        sweep: SweepFile,
        resources: Resources,
        settings: ProgramSettings,
        *,
        sweep_id: str,
        wandb: Mapping[str, str],
        script_index: int | None = None,
    ) -> None:
        """Store what all jobs share.

        Args:
            folder: Folder of the sweep.
            sweep: Parsed sweep file.
            resources: Part of this machine that the sweep uses.
            settings: How the program runs.
            sweep_id: Id of the sweep, the prefix of its runs' ids.
            wandb: Variables for W&B's client that all runs share.
            script_index: Index of the Python script in the command, for a warm start.
        """
        self.folder, self.sweep, self.resources, self.settings = folder, sweep, resources, settings
        self.sweep_id, self.wandb, self.script_index = sweep_id, wandb, script_index
        self.working_folder = os.getcwd()

    def job(self, run: Run, slot: int) -> ProgramJob:
        """Return the job of a run in a slot.

        Raises:
            SweepError: The command has no word, or one that no program can take.
            DiskError: The run's folder is gone.
        """
        folder = self.folder.run(run.number)
        nested = self.sweep.nested(run.values)
        run_id = f"{self.sweep_id}{run.number + 1:04}"
        shared = Path("wandb", f"sweep-{self.wandb.get('WANDB_SWEEP_ID', self.sweep_id)}")
        file = shared / f"config-{run_id}.yaml"
        environment = run_environment(
            folder.path,
            run_id,
            file,
            threads=self.resources.threads,
            restarts=len(run.trials) > 1,
        )
        gpus, function = self.resources.gpus, self.settings.function
        json_file = str(folder.path / file.with_suffix(".json"))
        return ProgramJob(
            folder=folder.path,
            identity=folder.identity(),
            threads=self.resources.threads,
            visible_gpu=gpus[slot % len(gpus)] if gpus else None,
            environment={**self.wandb, **environment},
            hang_timeout=0.0,
            command=() if function else self._command(nested, json_file),
            shown=f"{function}()" if function else shown(self.sweep, nested, json_file),
            working_folder=self.working_folder,
            parameters=nested,
            flat=dict(run.values),
            run_id=run_id,
            parameters_file=file,
            metric="" if self.sweep.metric is None else self.sweep.metric.name,
            is_unknown_to_wandb=self.wandb.get("WANDB_SWEEP_ID") == self.sweep_id,
            settings=self.settings,
            script_index=self.script_index,
        )

    def _command(self, nested: Mapping[str, Any], json_file: str) -> tuple[str, ...]:
        return tuple(expand(self.sweep, nested, json_file, {**os.environ, **self.wandb}))

    def resumes(self, run: Run) -> bool:
        """Return that the run starts from its beginning; its program may do otherwise."""
        return False

    def why_restarted(self, run: Run) -> str:
        """Return no reason: that is normal."""
        return ""
