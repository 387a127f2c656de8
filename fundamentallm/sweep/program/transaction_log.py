"""Transaction logs of the W&B client: what a program logs, read while it runs.

The client appends every record of a run to `WANDB_DIR/wandb/*run-*/run-ID.wandb`. Its command
`wandb leet inspect --json` prints them, and with `--follow` the new ones once a second. This module
alone knows that command and its output.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import select
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from fundamentallm.errors import FundamentallmError
from fundamentallm.sweep.program.detached_log import detach
from fundamentallm.sweep.program.lines import Lines
from fundamentallm.sweep.program.logged import Logged, LoggedRow, flat, numbers, settings
from fundamentallm.sweep.program.open_logs import open_logs
from fundamentallm.sweep.program.process import prepare_child

FOLDERS = ("offline-run-*", "run-*")
EMPTY_LOG = 7
"""Bytes of a log without records; the client writes the first ones after its flush interval."""
QUIET_SECONDS = 60
"""Time without a new record after which a follower ends, until there is one."""
SHORT_LOG = 1 << 21
"""Bytes of a log that is read again from its start in less time than a follower's next look."""
FOLLOWER_SECONDS = 2.0
"""Time in which a follower has seen the end of a log, since it looks once a second."""
SEARCH_SECONDS = 0.25
"""Time between searches for a log that the program writes elsewhere; later they become rarer."""
LARGEST_READ = 1 << 20
"""Bytes of output that one call parses, so that it returns soon."""
OWN = re.compile(r"(_step|_runtime|_timestamp|_wandb(\..*)?)$")
"""Names that the client adds to rows, summary and config."""


class TransactionLogError(FundamentallmError):
    """The W&B client cannot read a log."""


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
            TransactionLogError: The W&B client cannot read a log.
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
            TransactionLogError: The W&B client cannot read a log.
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
            OSError: A log cannot be read or written.
        """
        for log in self.logs.values():
            detach(log.path, sweep_id)

    def close(self) -> None:
        """Stop reading."""
        for log in self.logs.values():
            log.stop()

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
        TransactionLogError: The W&B client cannot read a log.
    """
    deadline = time.monotonic() + timeout
    logged = Logged()
    for path in sorted(path for folder in folders for path in folder.glob("run-*.wandb")):
        logged.add(TransactionLog(path).rest(deadline))
    return logged


class TransactionLog:
    """One log, and the process of the client that prints it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.process: subprocess.Popen[bytes] | None = None
        self.size_read = EMPTY_LOG
        """Size of the file when the last process started or ended."""
        self.lines_read = 0
        """Lines that were read from this process or those before."""
        self.ended = False
        """The last record of the log was read."""
        self.lines = Lines()
        self.lines_to_skip = 0

    def read(self) -> Logged:
        """Return new records, from a follower that starts when there are some."""
        if self.process is None and not self.ended and self._size() > self.size_read:
            self._start("--follow", "--idle-timeout", f"{QUIET_SECONDS}s")
        return self._read() if self.process else Logged()

    def rest(self, deadline: float) -> Logged:
        """Return all records that are left when no program writes any more."""
        logged = Logged()
        if self.process is not None and self._size() > SHORT_LOG:
            logged.add(self._read_until(min(deadline, time.monotonic() + FOLLOWER_SECONDS)))
        self.stop()
        if not self.ended and self._size() > EMPTY_LOG:
            self._start()
            logged.add(self._read_until(deadline))
            self.stop()
        return logged

    def stop(self) -> None:
        """Stop reading; what was not read yet is left."""
        if self.process is not None:
            self.process.kill()
            self._end()

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:  # removed
            return self.size_read

    def _start(self, *flags: str) -> None:
        self.size_read = self._size()
        self.lines, self.lines_to_skip = Lines(), self.lines_read
        # Python code in a fork is not safe beside the threads of a notebook.
        is_safe = threading.current_thread() is threading.main_thread()
        try:
            self.process = subprocess.Popen(
                inspect_command(self.path, *flags),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                preexec_fn=prepare_child(os.getpid()) if is_safe else None,
            )
        except OSError as error:
            raise TransactionLogError(
                f"{self.path}: W&B's client does not start: {error}"
            ) from None
        os.set_blocking(self._output, False)

    @property
    def _output(self) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def _read_until(self, deadline: float) -> Logged:
        """Return all that the process prints until its end or the deadline."""
        logged = Logged()
        while self.process is not None and not self.ended:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._output], [], [], left)[0]:
                break
            logged.add(self._read())
        return logged

    def _read(self) -> Logged:
        """Return the records that the process has printed."""
        logged = Logged()
        size = 0
        while size < LARGEST_READ and not self.ended:
            try:
                data = os.read(self._output, 1 << 16)
            except BlockingIOError:
                break
            if not data:
                self._check(self._end())
                break
            size += len(data)
            for line in self.lines.feed(data):
                if self.lines_to_skip:
                    self.lines_to_skip -= 1
                else:
                    self.lines_read += 1
                    self._take(line, logged)
        if self.ended:
            self.stop()
        return logged

    def _take(self, line: bytes, logged: Logged) -> None:
        """Add what a record says."""
        try:
            record = json.loads(line)
            kind = record["type"]
            content = record.get(kind) or {}
        except (ValueError, RecursionError, LookupError, TypeError):
            return  # no record, or one that is too long
        if kind == "history":
            item = content.get("item") or {}
            step = (content.get("step") or {}).get("num", item.get("_step"))
            metrics = without_own_names(numbers(item))
            if metrics and step is not None:
                logged.rows.append(LoggedRow(step, metrics))
        elif kind == "summary":
            logged.summary |= _summary(content)
        elif kind == "config":
            logged.config |= _config(content)
        elif kind == "run":
            logged.config |= _config(content.get("config") or {})
        elif kind == "exit":
            self.ended = True

    def _end(self) -> int:
        """Release a process that ended or was killed, and return its exit code."""
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.stdout.close()
        code = self.process.wait()
        self.process = None
        self.size_read = self._size()
        return code

    def _check(self, code: int) -> None:
        if code > 0 and self.path.exists():
            raise TransactionLogError(
                f"{self.path}: W&B's client cannot read it (exit code {code}); "
                f"see why with: {shlex.join(inspect_command(self.path))}"
            )


def _summary(content: Mapping[str, Any]) -> dict[str, Any]:
    removed = {each.get("key"): None for each in content.get("remove") or []}
    update = without_own_names(flat(content.get("update") or {}))
    return removed | {k: v for k, v in update.items() if isinstance(v, str | int | float)}


def _config(content: Mapping[str, Any]) -> dict[str, Any]:
    return without_own_names(settings(content.get("update") or {}))


def without_own_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what the client adds by itself."""
    return {name: value for name, value in values.items() if not OWN.match(name)}


@cache
def inspect_program() -> tuple[str, ...]:
    """Return the command that prints a log: the client's own binary, or else its Python command.

    The binary starts in 10 ms, and Python with the client in half a second.
    """
    found = importlib.util.find_spec("wandb")
    binary = Path(found.origin).parent / "bin/wandb-core" if found and found.origin else None
    if binary is not None and binary.is_file():
        return (str(binary), "leet", "inspect", "--no-observability", "--run-file")
    return (sys.executable, "-m", "wandb", "leet", "inspect")


def inspect_command(path: Path, *flags: str) -> list[str]:
    """Return the command that prints the records of a log as lines of JSON."""
    return [*inspect_program(), str(path), "--json", *flags]
