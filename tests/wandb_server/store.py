"""Data of the server: runs, sweeps, agents, artifacts and files."""

from __future__ import annotations

import base64
import json
import secrets
import string
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

ENTITY = "tester"
ALPHABET = string.ascii_lowercase + string.digits


def new_name() -> str:
    """Return eight random letters and digits, as W&B names runs and sweeps."""
    return "".join(secrets.choice(ALPHABET) for _ in range(8))


def global_id(kind: str, *parts: str) -> str:
    """Return an opaque id in the style of GraphQL relay servers."""
    return base64.b64encode(":".join(("v1", kind, *parts)).encode()).decode()


@dataclass(eq=False)
class Run:
    """One run; `name` is the id in W&B's terms, `display_name` the name that people see."""

    project: str
    name: str
    display_name: str = ""
    state: str = "pending"
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    history_lines: int = 0
    """Number of history lines sent: more than rows if some came twice."""
    repeated: list[int] = field(default_factory=list)
    """Steps that were sent more than once, as `wandb sync` does."""
    log: list[str] = field(default_factory=list)
    events: int = 0
    tags: list[str] = field(default_factory=list)
    group: str | None = None
    job_type: str | None = None
    notes: str | None = None
    sweep: str | None = None
    stopped: bool = False
    stopped_early: bool = False
    """Stopped by the sweep's hyperband."""
    stopped_at: float = 0.0
    preempting: bool = False
    exit_code: int | None = None
    files: list[str] = field(default_factory=list)
    alerts: list[tuple[str, str, str]] = field(default_factory=list)
    """Title, text and severity of each alert."""
    starts: int = 0
    """Number of times a process started or resumed the run."""

    @property
    def id(self) -> str:
        """Relay id."""
        return global_id("Run", ENTITY, self.project, self.name)

    @property
    def values(self) -> dict[str, Any]:
        """Config without W&B's own entries, as `wandb.config` shows it."""
        return {key: entry["value"] for key, entry in self.config.items() if key != "_wandb"}

    def rows(self) -> list[dict[str, Any]]:
        """Return the history without W&B's own columns; `_step` becomes `step`."""
        rows = []
        for row in self.history:
            kept = {key: value for key, value in row.items() if not key.startswith("_")}
            rows.append({"step": row["_step"], **kept})
        return rows

    def take_history(self, offset: int, rows: list[dict[str, Any]]) -> None:
        """Take lines from `offset`: ignore a repeated line, replace a repeated step."""
        for row in rows[max(0, self.history_lines - offset) :]:
            steps = [known["_step"] for known in self.history]
            if row["_step"] in steps:
                self.repeated.append(row["_step"])
                self.history[steps.index(row["_step"])] = row
            else:
                self.history.append(row)
        self.history_lines = max(self.history_lines, offset + len(rows))

    def stop(self) -> None:
        """Ask the run to stop, as the button in the UI does."""
        if not self.stopped:
            self.stopped, self.stopped_at = True, time.monotonic()


@dataclass(eq=False)
class Sweep:
    """One sweep and its runs."""

    project: str
    name: str
    config: dict[str, Any]
    display_name: str | None = None
    state: str = "PENDING"
    runs: list[Run] = field(default_factory=list)
    queue: list[Run] = field(default_factory=list)
    """Preempted runs, which start again before any new run, and those of a scheduler."""

    @property
    def id(self) -> str:
        """Relay id."""
        return global_id("Sweep", ENTITY, self.project, self.name)

    @property
    def path(self) -> str:
        """Path that `wandb agent` takes."""
        return f"{ENTITY}/{self.project}/{self.name}"


@dataclass(eq=False)
class Agent:
    """One `wandb agent` and the runs that it started."""

    sweep: Sweep
    runs: list[Run] = field(default_factory=list)


@dataclass(eq=False)
class Artifact:
    """One version of an artifact, with its manifest and files."""

    id: str
    project: str
    run: str | None
    kind: str
    collection: str
    digest: str
    metadata: str | None
    aliases: list[str] = field(default_factory=list)
    state: str = "PENDING"
    version: int = 0
    manifest_path: str = ""


@dataclass(eq=False)
class View:
    """One saved view of a project, or one report."""

    project: str
    id: str
    name: str
    kind: str
    """`project-view`, or `runs` for a report."""
    display_name: str = ""
    description: str = ""
    spec: str = ""
    saves: int = 0


class Search(Protocol):
    """Search and early termination of sweeps, in place of the server's own."""

    def suggest(self, sweep: Sweep) -> dict[str, Any] | None:
        """Return the next configuration, `{name: {"value": ...}}`, or None at the end."""

    def stop_early(self, sweep: Sweep) -> None:
        """Stop the runs that the sweep's hyperband ends."""


class Store:
    """All data, in memory; the listener holds a lock during each request."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], Run] = {}
        self.sweeps: dict[tuple[str, str], Sweep] = {}
        self.agents: dict[str, Agent] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.artifact_of_client: dict[str, str] = {}
        self.views: dict[str, View] = {}
        self.blobs: dict[str, bytes] = {}
        """Uploaded files by path."""
        self.stop_timeout = 40.0
        """Seconds for a run to stop by itself before its agent has to stop it."""
        self.search: Search | None = None
        """Search of all sweeps; None for the server's own, which suggests at random."""

    def run(self, project: str | None, name: str) -> Run | None:
        """Return a run, or None if it is unknown."""
        return self.runs.get((project or "uncategorized", name))

    def run_or_new(self, project: str | None, name: str) -> Run:
        """Return a run, and create it if it is unknown."""
        key = (project or "uncategorized", name)
        return self.runs.setdefault(key, Run(*key))

    def run_by_id(self, identity: str) -> Run | None:
        """Return a run by its relay id."""
        return next((run for run in self.runs.values() if run.id == identity), None)

    def sweep(self, project: str | None, name: str) -> Sweep | None:
        """Return a sweep by its name or its relay id."""
        key = (project or "uncategorized", name)
        by_id = (sweep for sweep in self.sweeps.values() if sweep.id == name)
        return self.sweeps.get(key) or next(by_id, None)

    def artifact_files(self, artifact: Artifact) -> dict[str, bytes]:
        """Return the files of an artifact by their names in its manifest."""
        manifest = json.loads(self.blobs[artifact.manifest_path])
        return {
            name: self.blobs[f"artifacts/{artifact.id}/{name}"] for name in manifest["contents"]
        }
