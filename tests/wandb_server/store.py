"""What the server holds: runs, sweeps, agents, artifacts, and the bytes of files."""

from __future__ import annotations

import base64
import json
import secrets
import string
import time
from dataclasses import dataclass, field
from typing import Any

ENTITY = "tester"
ALPHABET = string.ascii_lowercase + string.digits


def new_name() -> str:
    """Eight letters and digits, as W&B names runs and sweeps."""
    return "".join(secrets.choice(ALPHABET) for _ in range(8))


def global_id(kind: str, *parts: str) -> str:
    """An opaque id in the style of GraphQL relay servers."""
    return base64.b64encode(":".join(("v1", kind, *parts)).encode()).decode()


@dataclass(eq=False)
class Run:
    """One run; `name` is what W&B calls the run's id, `display_name` what people see."""

    project: str
    name: str
    display_name: str = ""
    state: str = "pending"
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    history_lines: int = 0
    """How many lines of history were sent: more than rows, if some came twice."""
    repeated: list[int] = field(default_factory=list)
    """Steps that were sent again, as `wandb sync` does."""
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
    starts: int = 0
    """How often a process has begun or resumed it."""

    @property
    def id(self) -> str:
        """The relay id."""
        return global_id("Run", ENTITY, self.project, self.name)

    @property
    def values(self) -> dict[str, Any]:
        """The config without W&B's own entries, as `wandb.config` shows it."""
        return {key: entry["value"] for key, entry in self.config.items() if key != "_wandb"}

    def rows(self) -> list[dict[str, Any]]:
        """The history without what W&B adds; `_step` is called `step`."""
        rows = []
        for row in self.history:
            kept = {key: value for key, value in row.items() if not key.startswith("_")}
            rows.append({"step": row["_step"], **kept})
        return rows

    def take_history(self, offset: int, rows: list[dict[str, Any]]) -> None:
        """Lines `offset` and on: a line sent twice counts once, a step sent twice is replaced."""
        for row in rows[max(0, self.history_lines - offset) :]:
            steps = [known["_step"] for known in self.history]
            if row["_step"] in steps:
                self.repeated.append(row["_step"])
                self.history[steps.index(row["_step"])] = row
            else:
                self.history.append(row)
        self.history_lines = max(self.history_lines, offset + len(rows))

    def stop(self) -> None:
        """Ask it to stop, as the UI's button does."""
        if not self.stopped:
            self.stopped, self.stopped_at = True, time.monotonic()


@dataclass(eq=False)
class Sweep:
    """One sweep, and the runs that it has handed out."""

    project: str
    name: str
    config: dict[str, Any]
    display_name: str | None = None
    state: str = "PENDING"
    runs: list[Run] = field(default_factory=list)
    queue: list[Run] = field(default_factory=list)
    """Preempted runs, handed out again before any new point."""

    @property
    def id(self) -> str:
        """The relay id."""
        return global_id("Sweep", ENTITY, self.project, self.name)

    @property
    def path(self) -> str:
        """What `wandb agent` is given."""
        return f"{ENTITY}/{self.project}/{self.name}"


@dataclass(eq=False)
class Agent:
    """One `wandb agent`, and the runs it was told to start."""

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


class Store:
    """Everything, in memory; the listener holds a lock around each request."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], Run] = {}
        self.sweeps: dict[tuple[str, str], Sweep] = {}
        self.agents: dict[str, Agent] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.artifact_of_client: dict[str, str] = {}
        self.blobs: dict[str, bytes] = {}
        """What was PUT, by the path it was put under."""
        self.patience = 40.0
        """Seconds that a run has to stop by itself before its agent is told to stop it."""

    def run(self, project: str | None, name: str) -> Run | None:
        """A run, if it is known."""
        return self.runs.get((project or "uncategorized", name))

    def run_or_new(self, project: str | None, name: str) -> Run:
        """A run, made now if need be."""
        key = (project or "uncategorized", name)
        return self.runs.setdefault(key, Run(*key))

    def run_by_id(self, identity: str) -> Run | None:
        """A run by its relay id."""
        return next((run for run in self.runs.values() if run.id == identity), None)

    def sweep(self, project: str | None, name: str) -> Sweep | None:
        """A sweep, by its name or its relay id."""
        key = (project or "uncategorized", name)
        by_id = (sweep for sweep in self.sweeps.values() if sweep.id == name)
        return self.sweeps.get(key) or next(by_id, None)

    def artifact_files(self, artifact: Artifact) -> dict[str, bytes]:
        """The files of an artifact, by the name that its manifest gives them."""
        manifest = json.loads(self.blobs[artifact.manifest_path])
        return {
            name: self.blobs[f"artifacts/{artifact.id}/{name}"] for name in manifest["contents"]
        }
