"""Transaction logs of the W&B client: what a program logs, read while it runs.

The client appends every record of a run to `WANDB_DIR/wandb/*run-*/run-ID.wandb`. No client is
needed here: that of the program may be older than the first one with a command that prints a log
(`wandb leet inspect`, not in 0.28), and none may be installed beside us.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fundamentallm.sweep.program.detached_log import detach
from fundamentallm.sweep.program.log_records import LogRecords, fields, variable_number
from fundamentallm.sweep.program.logged import Logged, LoggedRow, flat, numbers, settings
from fundamentallm.sweep.program.open_logs import open_logs

FOLDERS = ("offline-run-*", "run-*")
SEARCH_SECONDS = 0.25
"""Time between searches for a log that the program writes elsewhere; later they become rarer."""
LARGEST_READ = 1 << 20
"""Bytes of a log that one call parses, so that it returns soon."""
OWN = re.compile(r"(_step|_runtime|_timestamp|_wandb(\..*)?)$")
"""Names that the client adds to rows, summary and config."""

HISTORY, SUMMARY, CONFIG, RUN = 2, 3, 5, 17
"""Fields of a record: a row of metrics, new values of the summary or the config, and the run."""
ITEM, STEP = 1, 2
"""Fields of a row: one for each metric, and the step."""
UPDATE, REMOVE = 1, 2
"""Fields of new values: one for each value that is set or removed."""
CONFIG_OF_RUN = 4
NUMBER_OF_STEP = 1
KEY, NESTED_KEY, VALUE = 1, 2, 16
"""Fields of a value: its name, or the parts of its name, and the value as JSON."""

_decode = json.JSONDecoder(parse_constant=str).decode
"""Decode JSON; NaN and infinite numbers become texts, as most clients write them."""


class TransactionLogs:
    """All logs that a run's program writes below `wandb_dir`, found when they appear.

    A program that calls `wandb.init` twice writes two. Logs of another run id count only if they
    appear before the first one with `run_id`: then the program chose an id of its own. `ignore`
    names folders of logs that earlier attempts wrote.

    A program that chooses its own folder, as PyTorch Lightning does, writes elsewhere, most often
    below its working folder. Such a log gets a link below `wandb_dir`.
    """

    def __init__(
        self,
        wandb_dir: Path,
        run_id: str,
        *,
        working_folder: Path | None = None,
        ignore: Collection[Path] = (),
    ) -> None:
        self.folder = wandb_dir / "wandb"
        self.run_id = run_id
        self.elsewhere = working_folder and working_folder / "wandb"
        self.ignored = {path.name for path in (*ignore, *self._elsewhere())}
        self.logs: dict[str, TransactionLog] = {}
        self.started = self.next_search = time.monotonic()

    @property
    def exists(self) -> bool:
        """Return whether a log has appeared: the program uses W&B."""
        return bool(self.logs)

    def read(self) -> Logged:
        """Return everything new, without waiting.

        Raises:
            TransactionLogError: A log cannot be read.
        """
        now = time.monotonic()
        if not self.exists and now >= self.next_search:
            self.next_search = now + max(SEARCH_SECONDS, (now - self.started) / 20)
            self._link(path.parent for path in open_logs(self.run_id))
        self._find()
        logged = Logged()
        for log in self.logs.values():
            logged.add(log.read())
        return logged

    def finish(self, timeout: float) -> Logged:
        """Return the rest after the program ended; it is cut after `timeout` seconds.

        Raises:
            TransactionLogError: A log cannot be read.
        """
        self._link(self._elsewhere())
        self._find()
        deadline = time.monotonic() + timeout
        logged = Logged()
        for log in self.logs.values():
            logged.add(log.rest(deadline))
        return logged

    def detach(self, sweep_id: str) -> None:
        """Prepare the logs of an ended program for `wandb sync`, if W&B does not know the sweep.

        Raises:
            TransactionLogError: A log cannot be read.
            OSError: A log cannot be written.
        """
        for log in self.logs.values():
            detach(log.path, sweep_id)

    def _elsewhere(self) -> Iterator[Path]:
        """Yield the folders of the run's logs below the working folder."""
        if self.elsewhere is not None:
            for name in FOLDERS:
                for path in self.elsewhere.glob(f"{name}/run-{self.run_id}.wandb"):
                    yield path.parent

    def _link(self, folders: Iterable[Path]) -> None:
        for folder in folders:
            link = self.folder / folder.name
            if folder.name not in self.ignored and not link.exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                with suppress(FileExistsError):
                    link.symlink_to(folder.absolute(), target_is_directory=True)

    def _find(self) -> None:
        found = sorted(path for name in FOLDERS for path in self.folder.glob(f"{name}/run-*.wandb"))
        new = [p for p in found if not {p.parent.name} & (self.logs.keys() | self.ignored)]
        own = f"run-{self.run_id}.wandb"
        has_own = any(path.name == own for path in new) or any(
            log.path.name == own for log in self.logs.values()
        )
        for path in new:
            if path.name == own or not has_own:
                self.logs[path.parent.name] = TransactionLog(path)


def rest_of_logs(folders: Iterable[Path], timeout: float) -> Logged:
    """Return all records of the logs that earlier attempts wrote into these folders.

    Raises:
        TransactionLogError: A log cannot be read.
    """
    deadline = time.monotonic() + timeout
    logged = Logged()
    for path in sorted(path for folder in folders for path in folder.glob("run-*.wandb")):
        logged.add(TransactionLog(path).rest(deadline))
    return logged


class TransactionLog:
    """One log, read from its start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = LogRecords(path)

    def read(self) -> Logged:
        """Return new records, as many as are soon parsed.

        Raises:
            TransactionLogError: The log cannot be read.
        """
        logged = Logged()
        for chunks in self.records.read(LARGEST_READ):
            with suppress(IndexError):  # no record as we know it
                _add(logged, b"".join(chunk.data for chunk in chunks))
        return logged

    def rest(self, deadline: float) -> Logged:
        """Return all records that are left when no program writes any more.

        Raises:
            TransactionLogError: The log cannot be read.
        """
        logged, position = Logged(), -1
        while position != self.records.position and time.monotonic() < deadline:
            position = self.records.position
            logged.add(self.read())
        return logged


def _add(logged: Logged, record: bytes) -> None:
    """Add what a record says."""
    for number, _, start, end in fields(record):
        if number == HISTORY:
            _add_row(logged, record, start, end)
        elif number == SUMMARY:
            removed, update = _changes(record, start, end)
            known = without_own_names(flat(update))
            logged.summary |= dict.fromkeys(removed)
            logged.summary |= {k: v for k, v in known.items() if isinstance(v, str | int | float)}
        elif number == CONFIG:
            _add_config(logged, record, start, end)
        elif number == RUN:
            for inner, _, first, last in fields(record, start, end):
                if inner == CONFIG_OF_RUN:
                    _add_config(logged, record, first, last)


def _add_row(logged: Logged, record: bytes, start: int, end: int) -> None:
    items: dict[str, Any] = {}
    step: int | None = None
    for number, _, first, last in fields(record, start, end):
        if number == ITEM:
            items |= _value(record, first, last)
        elif number == STEP:
            step = 0  # a number of zero is not written
            for inner, _, position, _ in fields(record, first, last):
                if inner == NUMBER_OF_STEP:
                    step = variable_number(record, position)[0]
    step = items.get("_step") if step is None else step
    metrics = without_own_names(numbers(items))
    if metrics and isinstance(step, int):
        logged.rows.append(LoggedRow(step, metrics))


def _add_config(logged: Logged, record: bytes, start: int, end: int) -> None:
    _, update = _changes(record, start, end)
    logged.config |= without_own_names(settings(update))


def _changes(record: bytes, start: int, end: int) -> tuple[list[str], dict[str, Any]]:
    """Return the names that were removed, and the new values."""
    removed: list[str] = []
    update: dict[str, Any] = {}
    for number, _, first, last in fields(record, start, end):
        if number == REMOVE:
            removed.append(_named(record, first, last)[0])
        elif number == UPDATE:
            update |= _value(record, first, last)
    return removed, update


def _value(record: bytes, start: int, end: int) -> dict[str, Any]:
    """Return a value by its name; nothing if it is no JSON."""
    name, text = _named(record, start, end)
    try:
        return {name: _decode(text)}
    except (ValueError, RecursionError):
        return {}


def _named(record: bytes, start: int, end: int) -> tuple[str, str]:
    """Return the name of a value, and the value as JSON; "" for one that was removed."""
    names: list[str] = []
    value = ""
    for number, _, first, last in fields(record, start, end):
        if number == VALUE:
            value = record[first:last].decode(errors="replace")
        elif number in (KEY, NESTED_KEY):
            names.append(record[first:last].decode(errors="replace"))
    return ".".join(names), value


def without_own_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what the client adds by itself."""
    return {name: value for name, value in values.items() if not OWN.match(name)}
