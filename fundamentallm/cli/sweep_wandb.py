"""A local sweep's runs as W&B's client shall see them: one group, or members of an online sweep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fundamentallm.disk import replace_text
from fundamentallm.sweep.search import Values
from fundamentallm.sweep.spec import Sweep
from fundamentallm.sweep.sweep_folder import SweepFolder

PRELOADED = ("fundamentallm.trackers.wandb",)


class WandbRuns:
    """Says how each run of a sweep is shown on W&B."""

    def __init__(self, sweep: Sweep, folder: SweepFolder, *, mode: str, sweep_id: str, prefix: str):
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
        content = self.sweep.content
        cache = self.folder.path / f"wandb/cache-{number + 1:04}"
        environment = {
            "WANDB_MODE": self.mode,
            "WANDB_DIR": str(self.folder.path),
            "WANDB_CACHE_DIR": str(cache),
            "WANDB_RUN_GROUP": self.sweep.name,
        }
        for name, key in [("WANDB_PROJECT", "project"), ("WANDB_ENTITY", "entity")]:
            if content.get(key):
                environment[name] = str(content[key])
        *place, sweep_id = self.sweep_id.split("/")  # [[ENTITY/]PROJECT/]ID
        for name, part in zip(("WANDB_PROJECT", "WANDB_ENTITY"), reversed(place), strict=False):
            environment[name] = part
        tracker: dict[str, Any] = {"name": f"{self.sweep.name}-{number + 1}", "cache": str(cache)}
        if self.sweep_id:
            nested = self.sweep.nested(values)
            file = self._write_assignment(number, nested)
            environment |= {
                "WANDB_SWEEP_ID": sweep_id,
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
