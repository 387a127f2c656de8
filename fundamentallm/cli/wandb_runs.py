"""Runs of a local sweep on W&B: one group, or members of an online sweep."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import yaml

from fundamentallm.cli.messages import display_path, warn
from fundamentallm.files.atomic import replace_text
from fundamentallm.files.consent import remember, was_asked
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.search.base import Values
from fundamentallm.sweep.search.seeds import SEED
from fundamentallm.sweep.store.definition import SweepDefinition
from fundamentallm.sweep.store.sweep_folder import SweepFolder
from fundamentallm.trackers.installed import MISSING, load_tracker
from fundamentallm.trackers.wandb_presentation import sweep_labels

OFF = "off"
PRELOADED = ("fundamentallm.trackers.wandb",)


def wandb_location(sweep: SweepFile, sweep_id: str) -> tuple[str, str, str]:
    """Return entity, project and id of a sweep, where known; `sweep_id` may name all three."""
    *location, own = sweep_id.split("/")[-3:]  # [[ENTITY/]PROJECT/]ID
    entity, project = ["", "", *location][-2:]
    entity, project = (
        part or str(sweep.content.get(key) or "")
        for key, part in (("entity", entity), ("project", project))
    )
    return entity, project, own


def check_client(definition: SweepDefinition) -> None:
    """Check that W&B's client is there if our trainer needs it; a program has its own.

    Raises:
        SweepError: It is missing.
    """
    if definition.wandb and definition.program is None and load_tracker() is None:
        raise SweepError(f"this sweep sends its runs to W&B, but {MISSING}")


def remember_wandb(definition: SweepDefinition, folder: SweepFolder) -> None:
    """Record this user's consent to where on W&B a sweep sends its runs, if anywhere."""
    destination = _requested_destination(definition)
    if destination and (reason := remember(folder.path, wandb=f"{definition.id} {destination}")):
        warn(reason)


def with_allowed_wandb(
    definition: SweepDefinition, folder: SweepFolder, typed: str | None
) -> SweepDefinition:
    """Return the definition, if this user consents to where it sends its runs.

    Args:
        definition: Stored definition.
        folder: Folder of the sweep, which may come from others.
        typed: Destination on the command line, or `off`; None without one.

    Raises:
        SweepError: It sends runs without this user's consent.
        click.UsageError: Another destination was typed.
    """
    destination = _requested_destination(definition)
    if not destination or typed == OFF:
        if typed not in (None, OFF):
            raise click.UsageError(f"--wandb {typed}: this sweep sends nothing to W&B")
        return replace(definition, wandb="")
    if typed is None and not was_asked(folder.path, wandb=f"{definition.id} {destination}"):
        raise SweepError(
            f"{display_path(folder.path)}: this sweep sends its runs to W&B, which you have not "
            f"confirmed on this machine; add --wandb {shlex.quote(destination)} to send "
            f"them there, or --wandb {OFF} to keep them here"
        )
    if typed not in (None, destination):
        raise click.UsageError(
            f"--wandb {typed}: this sweep sends its runs elsewhere on W&B; give "
            f"{shlex.quote(destination)} or {OFF}"
        )
    if typed:
        remember_wandb(definition, folder)
    return definition


def _requested_destination(definition: SweepDefinition) -> str:
    """Return where a sweep sends its runs: the mode, then entity, project and sweep, where named.

    Unnamed parts come from the user's own W&B settings.
    """
    if not definition.wandb:
        return ""
    named = filter(None, wandb_location(definition.sweep, definition.wandb_sweep_id))
    return f"{definition.wandb}:{'/'.join(named)}".rstrip(":")


class WandbRuns:
    """Maker of each run's environment and tracker arguments for W&B."""

    def __init__(
        self, sweep: SweepFile, folder: SweepFolder, *, mode: str, sweep_id: str, prefix: str
    ):
        """Prepare, without imports or writes.

        Args:
            sweep: Sweep whose values name the runs; its project and entity are used.
            folder: Folder for the files of W&B's client.
            mode: `online` or `offline`.
            sweep_id: Online sweep that the runs join; or "".
            prefix: Prefix of the ids of runs that join it.
        """
        self.sweep, self.folder, self.mode = sweep, folder, mode
        self.sweep_id, self.prefix = sweep_id, prefix

    def __call__(self, number: int, values: Values) -> tuple[Mapping[str, str], Mapping[str, Any]]:
        """Return the environment of run `number`, and the arguments of its tracker."""
        cache = self.folder.path / f"wandb/cache-{number + 1:04}"
        environment = {
            "WANDB_MODE": self.mode,
            "WANDB_DIR": str(self.folder.path),
            "WANDB_CACHE_DIR": str(cache),
        }
        location = wandb_location(self.sweep, self.sweep_id)
        names = ("WANDB_ENTITY", "WANDB_PROJECT", "WANDB_SWEEP_ID")
        environment |= {name: part for name, part in zip(names, location, strict=True) if part}
        nested = self.sweep.nested(values)
        varied = {each.path[-1] for each in self.sweep.parameters if not each.is_constant}
        labels = sweep_labels(
            self.sweep.content,
            nested,
            sweep=self.sweep.name,
            is_group=not self.sweep_id,
            is_repeated=SEED in varied,
        )
        tracker: dict[str, Any] = {
            "labels": labels,
            "cache": str(cache),
            "in_sweep": True,
            "own_consent": False,
        }
        if self.sweep_id:
            file = self._write_assignment(number, nested)
            environment |= {
                "WANDB_RUN_ID": f"{self.prefix}{number + 1:04}",
                "WANDB_SWEEP_PARAM_PATH": str(file),
            }
            tracker["swept"] = nested
        return environment, tracker

    def _write_assignment(self, number: int, nested: Mapping[str, Any]) -> Path:
        """Write the file in which W&B's agent passes a run its values."""
        run = self.folder.run(number)
        file = run.path / "wandb-sweep.yaml"
        content = {"wandb_version": 1, **{name: {"value": v} for name, v in nested.items()}}
        replace_text(file, yaml.safe_dump(content), run.root)
        return file
