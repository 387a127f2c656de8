"""A run's place on W&B: entity, project and id, and this user's consent to send it there."""

from __future__ import annotations

import json
import logging
import secrets
import shlex
import string
from collections.abc import Mapping
from typing import Any, NamedTuple

from fundamentallm.config.parsing import unwrapped
from fundamentallm.files import bounded_yaml
from fundamentallm.files.atomic import read_file, replace_text
from fundamentallm.files.consent import remember, was_asked
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.trackers.wandb_api import WandbApi, WandbApiError, address_and_key

LOG = logging.getLogger(__name__)

DEFAULT_PROJECT = "fundamentallm"
ASK_SECONDS = 5.0
"""Timeout for one question to W&B."""
STATE = """query RunStoppedStatus($projectName: String, $entityName: String, $runId: String!) {
  project(name: $projectName, entityName: $entityName) { run(name: $runId) { stopped state } }
}"""
CONFIG = """query RunResumeStatus($project: String, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) { bucket(name: $name, missingOk: true) { config } }
}"""
SWEEP = """query GetSweep($project: String, $entity: String, $name: String!) {
  project(name: $project, entityName: $entity) { sweep(sweepName: $name) { config } }
}"""
LONGEST_PLACE = 1 << 12
"""Maximum bytes of wandb-id.txt."""


class Place(NamedTuple):
    """Entity, project and id of a run on W&B; None where unknown."""

    entity: str | None
    project: str | None
    run_id: str | None

    def __str__(self) -> str:
        return "/".join(part or "" for part in self)


def stored_place(folder: RunFolder) -> Place:
    """Return the place of the run in `folder`; old files have only the id."""
    try:
        content = read_file(folder.wandb_id, LONGEST_PLACE, root=folder.root)
    except FileNotFoundError:
        content = b""
    words = content.decode("utf-8", "replace").strip().split("/")
    entity, project, run_id = [None, None, None, *words][-3:]
    return Place(entity or None, project or None, run_id or None)


def store_place(folder: RunFolder, place: Place, *, consented: bool) -> None:
    """Write the place into the run's folder, and record that this user chose it.

    Args:
        folder: The run's folder.
        place: Where the run is on W&B.
        consented: Whether this command line chose it; a sweep has a consent of its own.
    """
    folder.wandb_id.parent.mkdir(parents=True, exist_ok=True)
    replace_text(folder.wandb_id, f"{place}\n", folder.root)
    if consented and (reason := remember(folder.path, wandb=str(place))):
        LOG.warning("%s", reason)


def why_not_trusted(folder: RunFolder, settings: Any) -> str:
    """Return why the run in `folder` is not sent to W&B; other people may have chosen the project.

    Args:
        folder: The run's folder.
        settings: Settings of W&B's client.

    Returns:
        One line that says how to allow it; "" if this user chose the project, or none is stored.
    """
    try:
        place = stored_place(folder)
    except OSError as error:
        return f"{folder.wandb_id}: cannot be read ({error.strerror}), so nothing is sent to W&B"
    own = settings.entity, settings.project, settings.run_id
    is_own = all(part in (None, mine) for part, mine in zip(place, own, strict=True))
    if is_own or was_asked(folder.path, wandb=str(place)):
        return ""
    names = ("WANDB_ENTITY", "WANDB_PROJECT", "WANDB_RUN_ID")
    words = (f"{name}={shlex.quote(part)}" for name, part in zip(names, place, strict=True) if part)
    return (
        f"{folder.wandb_id}: this run is on W&B, and no record on this machine says that you "
        f"started it, so nothing is sent; to send it there, set {' '.join(words)}"
    )


def new_run_id() -> str:
    """Return a random id in W&B's form: eight letters and digits."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


def state_on_wandb(place: Place) -> Mapping[str, Any]:
    """Return `state` of the run on W&B, and `stopped`: whether it was asked to stop.

    Raises:
        WandbApiError: W&B does not answer, or has no such run.
    """
    names = {"entityName": place.entity, "projectName": place.project, "runId": place.run_id}
    run = (_ask(STATE, names).get("project") or {}).get("run")
    if not run:
        raise WandbApiError("the run is not there", missing=True)
    return run


def config_on_wandb(place: Place) -> Mapping[str, Any] | None:
    """Return the config of the run on W&B, as it is stored there; None if there is no such run.

    Raises:
        WandbApiError: W&B does not answer.
    """
    names = {"entity": place.entity, "project": place.project, "name": place.run_id}
    bucket = (_ask(CONFIG, names).get("model") or {}).get("bucket")
    if not bucket:
        return None
    try:
        content = json.loads(bucket.get("config") or "{}")
    except ValueError:
        content = {}
    return unwrapped(content) or {}


def sweep_on_wandb(entity: str | None, project: str | None, sweep: str) -> Mapping[str, Any]:
    """Return the content of a sweep's file, as it is stored on W&B; {} if there is none.

    Raises:
        WandbApiError: W&B does not answer.
    """
    names = {"entity": entity, "project": project, "name": sweep}
    found = (_ask(SWEEP, names).get("project") or {}).get("sweep") or {}
    try:
        content = bounded_yaml.load(str(found.get("config")))
    except bounded_yaml.YamlError:
        return {}
    return content if isinstance(content, dict) else {}


def _ask(query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    return WandbApi(*address_and_key(), timeout=ASK_SECONDS).query(query, variables)
