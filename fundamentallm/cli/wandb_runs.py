"""A local sweep's runs as W&B's client shall see them: one group, or members of an online sweep."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import yaml

from fundamentallm.cli.messages import place, warn
from fundamentallm.files.atomic import replace_text
from fundamentallm.files.consent import remember, was_asked
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.search.base import Values
from fundamentallm.sweep.store.definition import SweepDefinition
from fundamentallm.sweep.store.sweep_folder import SweepFolder

OFF = "off"
PRELOADED = ("fundamentallm.trackers.wandb",)


def place_on_wandb(sweep: SweepFile, sweep_id: str) -> tuple[str, str, str]:
    """Entity, project and id of a sweep, as far as it names them; `sweep_id` may name all three."""
    *place, own = sweep_id.split("/")[-3:]  # [[ENTITY/]PROJECT/]ID
    entity, project = ["", "", *place][-2:]
    entity, project = (
        part or str(sweep.content.get(key) or "")
        for key, part in (("entity", entity), ("project", project))
    )
    return entity, project, own


def remember_wandb(definition: SweepDefinition, folder: SweepFolder) -> None:
    """Note that this user asked for the place on W&B to which a sweep sends its runs, if any."""
    asked = _asked_place(definition)
    if asked and (reason := remember(folder.path, wandb=f"{definition.id} {asked}")):
        warn(reason)


def with_allowed_wandb(
    definition: SweepDefinition, folder: SweepFolder, typed: str | None
) -> SweepDefinition:
    """Return the definition of a sweep that sends its runs only where this user wants them.

    Args:
        definition: As it is stored.
        folder: Its folder, which may be from others.
        typed: The place that was typed, or `off`; None if nothing was.

    Raises:
        SweepError: It would send them, and nobody here has asked for it.
        click.UsageError: Another place was typed.
    """
    asked = _asked_place(definition)
    if not asked or typed == OFF:
        if typed not in (None, OFF):
            raise click.UsageError(f"--wandb {typed}: this sweep sends nothing to W&B")
        return replace(definition, wandb="")
    if typed is None and not was_asked(folder.path, wandb=f"{definition.id} {asked}"):
        raise SweepError(
            f"{place(folder.path)}: this sweep sends its runs to W&B, which you have not "
            f"confirmed on this machine; add --wandb {shlex.quote(asked)} to send "
            f"them there, or --wandb {OFF} to keep them here"
        )
    if typed not in (None, asked):
        raise click.UsageError(
            f"--wandb {typed}: this sweep sends its runs elsewhere on W&B; give "
            f"{shlex.quote(asked)} or {OFF}"
        )
    if typed:
        remember_wandb(definition, folder)
    return definition


def _asked_place(definition: SweepDefinition) -> str:
    """Where a sweep sends its runs, in one word: the mode, then what it names of the place.

    Without a name they go where the user's own settings of W&B say.
    """
    if not definition.wandb:
        return ""
    named = filter(None, place_on_wandb(definition.sweep, definition.wandb_sweep_id))
    return f"{definition.wandb}:{'/'.join(named)}".rstrip(":")


class WandbRuns:
    """Says how each run of a sweep is shown on W&B."""

    def __init__(
        self, sweep: SweepFile, folder: SweepFolder, *, mode: str, sweep_id: str, prefix: str
    ):
        """Nothing is imported or written.

        Args:
            sweep: Its name becomes the group; its project and entity are used.
            folder: What W&B's client leaves on the disk goes under it.
            mode: `online` or `offline`.
            sweep_id: Of a sweep that was made online, whose runs these shall be; or "".
            prefix: Begins the ids of runs that join that sweep.
        """
        self.sweep, self.folder, self.mode = sweep, folder, mode
        self.sweep_id, self.prefix = sweep_id, prefix

    def __call__(self, number: int, values: Values) -> tuple[Mapping[str, str], Mapping[str, Any]]:
        """The environment of run `number`, and the arguments of its tracker."""
        cache = self.folder.path / f"wandb/cache-{number + 1:04}"
        environment = {
            "WANDB_MODE": self.mode,
            "WANDB_DIR": str(self.folder.path),
            "WANDB_CACHE_DIR": str(cache),
            "WANDB_RUN_GROUP": self.sweep.name,
        }
        place = place_on_wandb(self.sweep, self.sweep_id)
        names = ("WANDB_ENTITY", "WANDB_PROJECT", "WANDB_SWEEP_ID")
        environment |= {name: part for name, part in zip(names, place, strict=True) if part}
        tracker: dict[str, Any] = {
            "name": f"{self.sweep.name}-{number + 1}",
            "cache": str(cache),
            "in_sweep": True,
        }
        if self.sweep_id:
            nested = self.sweep.nested(values)
            file = self._write_assignment(number, nested)
            environment |= {
                "WANDB_RUN_ID": f"{self.prefix}{number + 1:04}",
                "WANDB_SWEEP_PARAM_PATH": str(file),
            }
            tracker["swept"] = list(nested)
        return environment, tracker

    def _write_assignment(self, number: int, nested: Mapping[str, Any]) -> Path:
        """The file by which W&B's agent tells a run what to try."""
        run = self.folder.run(number)
        file = run.path / "wandb-sweep.yaml"
        content = {"wandb_version": 1, **{name: {"value": v} for name, v in nested.items()}}
        replace_text(file, yaml.safe_dump(content), run.root)
        return file
