"""Download of a sweep from W&B: its file, its runs, their histories and files.

A request that fails is repeated, from the page reached, until W&B has not answered for
`OUTAGE_SECONDS`. After `TOTAL_SECONDS` nothing more is asked.
"""

from __future__ import annotations

import json
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fundamentallm.metrics import finite
from fundamentallm.trackers.wandb_api import WandbApi, WandbApiError

LOG = logging.getLogger(__name__)

Item = TypeVar("Item")
Answer = TypeVar("Answer")

TOTAL_SECONDS = 600
OUTAGE_SECONDS = 90
LONGEST_WAIT = 8.0
"""Seconds between two attempts of one request; the first wait is one second."""
AT_ONCE = 8
"""Requests at a time for the histories, which W&B answers run by run."""
RUNS_PER_PAGE = 100
ROWS_PER_PAGE = 10_000

SWEEP = """query Sweep($entity: String!, $project: String!, $name: String!) {
  project(name: $project, entityName: $entity) { sweep(sweepName: $name) { config } }
}"""
RUNS = """query Runs($entity: String!, $project: String!, $filters: JSONString, $order: String,
    $cursor: String, $perPage: Int) {
  project(name: $project, entityName: $entity) {
    runCount(filters: $filters)
    runs(filters: $filters, order: $order, after: $cursor, first: $perPage) {
      edges { node {
        name displayName state tags config summaryMetrics historyKeys historyLineCount
      } }
      pageInfo { endCursor hasNextPage }
    }
  }
}"""
HISTORY = """query HistoryPage($entity: String!, $project: String!, $run: String!,
    $minStep: Int64!, $maxStep: Int64!, $pageSize: Int!) {
  project(name: $project, entityName: $entity) { run(name: $run) {
    history(minStep: $minStep, maxStep: $maxStep, samples: $pageSize)
  } }
}"""
FILES = """query RunFiles($entity: String!, $project: String!, $name: String!,
    $fileNames: [String]!) {
  project(name: $project, entityName: $entity) { run(name: $name) {
    files(names: $fileNames) { edges { node { name url sizeBytes } } }
  } }
}"""


@dataclass(frozen=True)
class WandbRun:
    """A run as W&B has it, without its history."""

    id: str
    path: str
    """`ENTITY/PROJECT/ID`."""
    name: str
    """Name that people see; the id of a run that has none yet."""
    state: str
    tags: Sequence[str]
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    last_step: int
    """Last step of the history; -1 without rows, or if W&B does not say."""
    rows: int | None
    """Number of rows of the history; None if W&B does not say."""


class WandbDownload:
    """Requests for one sweep, within one time limit."""

    def __init__(self, api: WandbApi, address: str, progress: Callable[[str], None]) -> None:
        """Start the clock.

        Args:
            api: Requests to W&B.
            address: `ENTITY/PROJECT/SWEEP`.
            progress: Receives, again and again, how far the download has come.
        """
        self.api, self.progress = api, progress
        self.entity, self.project, self.sweep = address.split("/")
        self.start = time.monotonic()
        self.last_answer: float | None = None
        self.given_up: WandbApiError | None = None
        self.told = -math.inf
        self.lock = threading.Lock()

    def sweep_file(self) -> str:
        """Return the text of the sweep's file.

        Raises:
            WandbApiError: W&B does not answer, or has no such sweep.
        """
        sweep = self._project(SWEEP, {"name": self.sweep}).get("sweep")
        if not isinstance(sweep, Mapping):
            raise WandbApiError(f"{self.api.base_url} has no such sweep", missing=True)
        return str(sweep.get("config") or "")

    def runs(self) -> list[WandbRun]:
        """Return all runs, the oldest first.

        Raises:
            WandbApiError: W&B does not answer; the message says how many runs it gave before.
        """
        variables = {
            "filters": json.dumps({"sweep": self.sweep}),
            "order": "+created_at",
            "perPage": RUNS_PER_PAGE,
        }
        found: dict[str, WandbRun] = {}
        cursor: str | None = None
        while True:
            try:
                project = self._project(RUNS, {**variables, "cursor": cursor})
            except WandbApiError as error:
                if not found:
                    raise
                message = f"{error}, after {len(found):,} runs"
                raise WandbApiError(message, temporary=error.temporary) from None
            before = len(found)
            with self._understood():
                page, total = project["runs"], int(project["runCount"])
                read = [self._run(edge["node"]) for edge in page["edges"]]
                more, cursor = page["pageInfo"]["hasNextPage"], page["pageInfo"]["endCursor"]
            found |= {run.id: run for run in read}
            self.progress(f"{len(found):,} of {total:,} runs")
            if not more or len(found) == before:
                return list(found.values())

    def _run(self, node: Mapping[str, Any]) -> WandbRun:
        config, summary = _object(node.get("config")), _object(node.get("summaryMetrics"))
        steps = [_object(node.get("historyKeys")).get("lastStep"), summary.get("_step")]
        rows = finite(node.get("historyLineCount"))
        last = max((int(step) for step in map(finite, steps) if step is not None), default=-1)
        identity = str(node["name"])
        return WandbRun(
            id=identity,
            path=f"{self.entity}/{self.project}/{identity}",
            name=str(node.get("displayName") or identity),
            state=str(node.get("state") or ""),
            tags=[str(tag) for tag in node.get("tags") or []],
            config={
                name: entry["value"] if isinstance(entry, Mapping) and "value" in entry else entry
                for name, entry in config.items()
            },
            summary=summary,
            last_step=last,
            rows=None if rows is None else int(rows),
        )

    def histories(
        self, runs: Sequence[WandbRun], read: Callable[[Iterator[dict[str, Any]]], Answer]
    ) -> Iterator[tuple[WandbRun, Answer | WandbApiError]]:
        """Yield each run with its rows, as `read` returns them, or the error."""
        answers = _at_once(lambda run: read(self._rows(run)), runs)
        for done, (run, answer) in enumerate(answers, 1):
            self.progress(f"{len(runs):,} runs, curves of {done:,}")
            yield run, answer

    def _rows(self, run: WandbRun) -> Iterator[dict[str, Any]]:
        """Yield all rows.

        W&B samples a page that has more rows than asked for, so no page may.
        """
        last = ROWS_PER_PAGE - 1 if run.rows and run.last_step < 0 else run.last_step
        whole = 0 < (run.rows or 0) <= ROWS_PER_PAGE // 2  # a run in progress adds to it
        steps = max(1, last + 1) if whole else ROWS_PER_PAGE
        for first in range(0, last + 1, steps):
            variables = {
                "run": run.id,
                "minStep": first,
                "maxStep": first + steps,
                "pageSize": ROWS_PER_PAGE,
            }
            found = self._project(HISTORY, variables).get("run")
            if not isinstance(found, Mapping):
                raise WandbApiError("the run was deleted", missing=True)
            with self._understood():
                rows = [_object(line) for line in found["history"]]
            yield from rows

    def file(self, run: str, path: str, most: int) -> bytes | None:
        """Return a file of a run of at most `most` bytes; None if there is no such file.

        Raises:
            WandbApiError: W&B does not answer.
        """
        variables = {"name": run, "fileNames": [path]}
        project = self._project(FILES, variables)
        with self._understood():
            edges = project["run"]["files"]["edges"]
            urls = [
                str(edge["node"]["url"])
                for edge in edges
                if edge["node"]["name"] == path and int(edge["node"]["sizeBytes"]) <= most
            ]
        return self._ask(lambda: self.api.download(urls[0], most)) if urls else None

    def _project(self, text: str, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return W&B's answer about the project."""
        where = {"entity": self.entity, "project": self.project}
        answer = self._ask(lambda: self.api.query(text, {**where, **variables}))
        project = answer.get("project")
        if not isinstance(project, Mapping):
            raise WandbApiError(f"{self.api.base_url} has no such project", missing=True)
        return project

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Turn errors of an answer that has another form than W&B's into one of W&B.

        Raises:
            WandbApiError: The answer has another form.
        """
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError):
            raise WandbApiError(f"{self.api.base_url} answers in an unknown form") from None

    def _ask(self, request: Callable[[], Answer]) -> Answer:
        """Return the answer, after as many attempts as the time limits allow."""
        failed_at, wait = 0.0, 1.0
        while True:
            if self.given_up is not None:
                raise self.given_up
            try:
                answer = request()
            except WandbApiError as error:
                now = time.monotonic()
                failed_at = failed_at or now
                if not error.temporary or self.last_answer is None:
                    raise
                if now + wait > min(failed_at + OUTAGE_SECONDS, self.start + TOTAL_SECONDS):
                    if self.last_answer < failed_at:
                        self.given_up = error
                    raise
                self._tell(error)
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                self.last_answer = time.monotonic()
                if self.last_answer > self.start + TOTAL_SECONDS:
                    self.given_up = WandbApiError(f"not within {TOTAL_SECONDS} s", temporary=True)
                return answer

    def _tell(self, error: WandbApiError) -> None:
        """Warn once per outage, however many requests it hits."""
        with self.lock:
            if time.monotonic() < self.told + OUTAGE_SECONDS:
                return
            self.told = time.monotonic()
        LOG.warning("%s; trying again for at most %s s", error, OUTAGE_SECONDS)


def _at_once(
    work: Callable[[Item], Answer], items: Sequence[Item]
) -> Iterator[tuple[Item, Answer | WandbApiError]]:
    """Yield each item with its answer, in the order of the answers.

    The threads do not keep the program from ending.
    """
    todo: queue.SimpleQueue[Item] = queue.SimpleQueue()
    for item in items:
        todo.put(item)
    done: queue.SimpleQueue[tuple[Item, Answer | Exception]] = queue.SimpleQueue()

    def run() -> None:
        while True:
            try:
                item = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((item, work(item)))
            except Exception as error:
                done.put((item, error))

    for _ in range(min(AT_ONCE, len(items))):
        threading.Thread(target=run, name="wandb-download", daemon=True).start()
    for _ in items:
        item, answer = done.get()
        if isinstance(answer, Exception) and not isinstance(answer, WandbApiError):
            raise answer
        yield item, answer


def _object(content: object) -> dict[str, Any]:
    """Return W&B's JSON of an object; empty for anything else."""
    try:
        found = json.loads(content, strict=False) if isinstance(content, str) else content
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
