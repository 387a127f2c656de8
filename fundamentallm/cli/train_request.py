"""Request for one run, resolved from flags, files and a sweep's values."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fundamentallm.cli.messages import display_path, warn
from fundamentallm.config.fields import ConfigError
from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.config.parsing import DATA_KEYS, read_config
from fundamentallm.config.presets import PRESETS
from fundamentallm.files.run_folder import RunFolder, RunFolderError, read_flat_yaml
from fundamentallm.sweep.store.sweep_folder import SweepFolder
from fundamentallm.sweep.wandb_agent import Assignment


@dataclass(frozen=True)
class TrainRequest:
    """Flags as typed."""

    typed: Mapping[str, tuple[Any, ...]]
    """All typed values of each hyperparameter; `data` is the text."""
    output_dir: str | None
    preset: str | None
    config_file: str | None
    resume: bool
    overwrite: bool
    device: str
    no_wandb: bool
    log_model: bool | None
    sweep: Assignment | None

    @classmethod
    def from_flags(
        cls, flags: Mapping[str, Any], *, no_wandb: bool = False, sweep: Assignment | None = None
    ) -> TrainRequest:
        """Build the request from the parameters of a click command, some of which may be missing.

        Args:
            flags: Parameters by name: hyperparameters, and options of `run_options` and
                `train_options`.
            no_wandb: Whether to keep the run off W&B without a flag.
            sweep: The run of a W&B sweep that this process was started for.
        """
        typed = {name: flags[name] for name in HYPERPARAMETERS if flags.get(name)}
        if flags.get("data") is not None:
            typed["data"] = (flags["data"],)
        return cls(
            typed,
            output_dir=flags.get("output_dir"),
            preset=flags.get("preset"),
            config_file=flags.get("config_file"),
            resume=flags.get("resume", False),
            overwrite=flags.get("overwrite", False),
            device=flags["device"],
            no_wandb=flags.get("no_wandb", no_wandb),
            log_model=flags.get("log_model"),
            sweep=sweep,
        )

    @property
    def folder(self) -> RunFolder | None:
        """Folder of the run; None for a new one.

        In a sweep each run has its own, named by the run's id.
        """
        if self.sweep is not None:
            return RunFolder(Path(self.output_dir or "runs") / self.sweep.run_id)
        return RunFolder(self.output_dir) if self.output_dir else None

    @property
    def resumes(self) -> bool:
        """Return whether to resume a run in the folder; in a sweep, a requeued run resumes."""
        return self.resume or (self.sweep is not None and not self.overwrite)

    def command_with_text(self, data: str) -> str:
        """Return this request's command with another text, for --resume or --config."""
        words = [click.get_current_context().command_path, data]
        if self.output_dir and self.resumes:
            words += ["--output-dir", shlex.quote(self.output_dir), "--resume"]
        if self.config_file:
            words += ["--config", shlex.quote(self.config_file)]
        return " ".join(words)

    def check_folder(self) -> None:
        """Check that flags agree, and that no run is overwritten without a flag.

        Raises:
            click.UsageError: Flags conflict, or a run would be overwritten.
            RunFolderError: Foreign files would be overwritten.
        """
        if self.resume and self.overwrite:
            raise click.UsageError("--resume and --overwrite exclude each other; give one")
        if self.folder is None:
            if self.resume or self.overwrite:
                flag = "--resume" if self.resume else "--overwrite"
                raise click.UsageError(f"{flag} needs --output-dir, the run's folder")
        elif self.sweep is None and os.path.lexists(self.folder.path / "sweep.yaml"):
            raise click.UsageError(
                f"--output-dir {self.folder.path}: this folder holds a sweep; resume it "
                f"with fundamentallm agent {self.folder.path}, or give another folder"
            )
        elif self.sweep is None and SweepFolder(self.folder.path.absolute().parent).exists:
            sweep_path = display_path(self.folder.path.absolute().parent)
            raise click.UsageError(
                f"--output-dir {self.folder.path}: this folder is inside the sweep {sweep_path}, "
                f"and only the sweep writes there; to train its best run longer, use fundamentallm "
                f"refine {sweep_path}, or give another folder"
            )
        elif self.folder.holds_a_run():
            self.folder.check_ownership()
            if not (self.resumes or self.overwrite):
                raise click.UsageError(
                    f"--output-dir {self.folder.path}: this folder holds a run; add --resume "
                    "to resume it, --overwrite to replace it, or give another folder"
                )
        elif self.resume:
            warn(f"--resume: no run in {self.folder.path} yet; starting one")

    def resolve_settings(self) -> dict[str, Any]:
        """Return every value that is not a default, from the source with the highest precedence.

        Hyperparameters by name, and `DATA_KEYS`.

        Raises:
            ConfigError: A file or the sweep has an unknown name or impossible value, or a flag and
                the sweep disagree.
            RunFolderError: The run would overwrite its text.
        """
        settings: dict[str, Any] = {}
        if self.resumes and self.folder:
            settings |= _read_recorded(self.folder)
            if self.resume:
                _check_settings_are_known(self.folder, settings)
        if self.preset:
            settings |= PRESETS[self.preset].values
        if self.config_file:
            given = read_flat_yaml(Path(self.config_file))
            settings |= read_config(given, self.config_file)
        swept = {} if self.sweep is None else self.sweep.values()
        if "data_sha256" in swept:  # a requeued run: its text was recorded
            settings |= {key: swept.pop(key) for key in DATA_KEYS if key in swept}
        settings |= {name: given[-1] for name, given in self.typed.items()}
        for name, value in swept.items():
            others = [given for given in self.typed.get(name, ()) if given != value]
            if self.sweep is not None and others:
                raise ConfigError(
                    f"{name} is {others[0]} on the command line and {value} in sweep "
                    f"{self.sweep.sweep_id}; remove one of them"
                )
        settings |= swept
        if self.folder is not None:
            self.folder.check_keeps(settings.get("data"))
        return settings


def _read_recorded(folder: RunFolder) -> dict[str, Any]:
    """Read a run's settings, from its checkpoint if config.yaml is empty."""
    if not os.path.exists(folder.config):
        recorded = {}
    elif recorded := read_config(folder.read_config(), str(folder.config)):
        return recorded
    if os.path.exists(folder.last):
        from fundamentallm.training.checkpoint import Checkpoint

        checkpoint = Checkpoint.load(folder.last, folder.root)
        data, sha256 = checkpoint.data["name"], checkpoint.data["sha256"]
        recorded = {**vars(checkpoint.config), "data": data, "data_sha256": sha256}
        warn(f"{folder.config} is empty; the run's settings are read from last.pt")
    return recorded


def _check_settings_are_known(folder: RunFolder, recorded: Mapping[str, Any]) -> None:
    """Check that an existing run's settings are known.

    Raises:
        RunFolderError: They are unknown, so it would start over as another run.
    """
    if os.path.exists(folder.config) and not recorded:
        raise RunFolderError(
            f"--resume: {folder.config} is empty and there is no last.pt, so the run's settings "
            "are unknown; restore one of them, or start over with --overwrite"
        )
