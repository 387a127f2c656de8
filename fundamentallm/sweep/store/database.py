"""Database of a sweep: SQLite beside the runs, or PostgreSQL for many machines."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import filelock
import optuna
import sqlalchemy
import sqlalchemy.exc
from sqlalchemy.pool import QueuePool

from fundamentallm.errors import one_line
from fundamentallm.exit_codes import FAILED
from fundamentallm.files.held_folder import HeldFolder
from fundamentallm.sweep.file.diagnostics import DisplacedError, SweepError
from fundamentallm.sweep.store.address import StorageAddress
from fundamentallm.sweep.store.sqlite_file import OwnFile
from fundamentallm.sweep.store.stored_values import StoredError

BUSY_SECONDS = 60
"""Timeout of SQLite for another writer."""
RETRY_SECONDS = 2.0
"""Pause between two tries to reach the database."""
LOCK_SECONDS = 0.05
"""Pause between two tries to take a lock."""
LONGEST_REASON = 500  # characters
UNCLEAR_TRIES = 5
"""Tries after errors of which a broken connection may be the cause."""
UNAVAILABLE_CLASSES = ("08", "25", "40", "53", "57", "58")
"""Classes of PostgreSQL's error codes: no connection, read-only (a failover), a conflict, no
resources, operator intervention, a system error."""
REFUSALS = ("authentication failed", "does not exist", "no pg_hba.conf entry", "no password")
"""Parts of a server's errors that waiting does not cure."""
KEEPALIVES = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
"""Let PostgreSQL free the lock of a machine that vanished after a minute; Linux's default is two
hours."""

P = ParamSpec("P")
T = TypeVar("T")


class StorageUnavailableError(SweepError):
    """The storage was unavailable, or its disk full, for longer than the timeout."""

    exit_code = FAILED


class UsesDatabase(Protocol):
    """Class whose methods may be `retried`."""

    database: Database


def retried(
    method: Callable[Concatenate[Any, P], T],
) -> Callable[Concatenate[Any, P], T]:
    """Run a method by `Database.retry`."""

    @wraps(method)
    def with_retries(self: UsesDatabase, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.database.retry(lambda: method(self, *args, **kwargs))

    return with_retries


def _why_unavailable(error: BaseException) -> str:
    """Return why the database is unavailable now; "" if the error says something else."""
    for each in _causes(error):
        if isinstance(each, sqlalchemy.exc.DBAPIError) and (
            isinstance(each, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError)
            or each.connection_invalidated
            or str(getattr(each.orig, "sqlstate", None))[:2] in UNAVAILABLE_CLASSES
        ):
            return one_line(each.orig or each, LONGEST_REASON)
    return ""


def _is_of_database(error: BaseException) -> bool:
    """Return whether SQLAlchemy raised it; a broken connection gives errors of many kinds."""
    return any(isinstance(each, sqlalchemy.exc.SQLAlchemyError) for each in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes; for SQLAlchemy's, the context counts as a cause too."""
    while error is not None:
        yield error
        is_sqlalchemy = isinstance(error, sqlalchemy.exc.SQLAlchemyError)
        error = error.__cause__ or (error.__context__ if is_sqlalchemy else None)


class Database:
    """Connection to a sweep's database, and a lock that all its workers share."""

    def __init__(self, url: str, folder: HeldFolder | None = None) -> None:
        """Note the address; the first use connects.

        Args:
            url: `sqlite:///PATH` or `postgresql://...`.
            folder: Folder of the sweep, with the lock file of SQLite; None if nothing is locked.

        Raises:
            SweepError: `url` is neither.
        """
        self.address = StorageAddress.parse(url)
        self.shown, self.url = self.address.shown, self.address.driver_url
        self.is_local = self.address.is_local
        self.path = str(sqlalchemy.make_url(self.url).database)
        """Path of SQLite's file."""
        self.folder = folder
        self.file_lock: filelock.BaseFileLock | None = None
        if folder is not None:  # FileLock would recreate a folder that was moved away
            self.file_lock = filelock.FileLock(folder.lasting_path("ledger.lock"))
        self.file: tuple[int, int] | None = None
        """Identity of SQLite's file when it was opened first."""
        self.engine: sqlalchemy.Engine | None = None
        self.storages: list[optuna.storages.RDBStorage] = []
        self.old_pools: list[sqlalchemy.Pool] = []
        """Pools with connections that were in use at the last `close`; the next one ends them."""
        self.was_reached = False
        self.set_timeout(0.0, lambda line: None)

    def prepare(self) -> None:
        """Set SQLite to WAL mode, in which readers and the writer do not block each other.

        Otherwise a worker that is suspended while it reads, by Ctrl-Z say, blocks all the others.
        """
        if self.is_local:
            arguments = self.engine_arguments["connect_args"]
            with closing(sqlite3.connect(self.path, **arguments)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")

    @property
    def engine_arguments(self) -> dict[str, Any]:
        """Return arguments for SQLAlchemy's `create_engine`."""
        if self.is_local:
            return {"connect_args": {"timeout": BUSY_SECONDS, "factory": self._connect}}
        return {
            "connect_args": {"connect_timeout": 10, "client_encoding": "utf8"},
            "pool_pre_ping": True,
        }

    def _connect(self, path: str, *args: Any, **kwargs: Any) -> OwnFile:
        self._check_in_place()
        return OwnFile(path, *args, **kwargs)

    def _check_in_place(self) -> None:
        """Check that SQLite's file was not moved or replaced.

        Raises:
            DisplacedError: It was.
        """
        if self.folder is None:
            return
        now = self.folder.identity(Path(self.path).name)
        why = self.folder.why_displaced()
        if why:
            raise DisplacedError(f"{self.folder.path}: {why} while the sweep ran")
        if self.file not in (None, now):
            raise DisplacedError(
                f"{self.path}: removed or replaced while the sweep ran, so the sweep stopped; put "
                "it back, or start a new sweep with another --output-dir"
            )
        self.file = now

    def open_storage(self) -> optuna.storages.RDBStorage:
        """Open Optuna's storage, and create its tables if they are missing."""
        opened = optuna.storages.RDBStorage.__new__(optuna.storages.RDBStorage)
        try:
            opened.__init__(self.url, engine_kwargs=self.engine_arguments)
        finally:  # it connects before it can fail
            if hasattr(opened, "engine"):
                self.storages.append(opened)
        return opened

    def retry(self, work: Callable[[], T]) -> T:
        """Call `work` until the database is available; it must be safe to call twice.

        Raises:
            StorageUnavailableError: The timeout is over, or `is_cancelled` returned True.
        """
        waiting_since, unclear = 0.0, 0
        while True:
            try:
                result = work()
            except Exception as error:
                reason = _why_unavailable(error)
                if not reason and unclear < UNCLEAR_TRIES and _is_of_database(error):
                    unclear += 1  # after a broken connection, the next try shows the cause
                    continue
                if not reason and (isinstance(error, StoredError) or _is_of_database(error)):
                    raise self._unusable(error) from error
                if (
                    not reason
                    or isinstance(error, StorageUnavailableError)
                    or self._is_refused(reason)
                ):
                    raise
                unclear = 0
                now = time.monotonic()
                if not waiting_since:
                    waiting_since = now
                    self.notify(f"storage {self.shown} is unavailable: {reason}; waiting for it")
                if now - waiting_since > self.timeout or self.is_cancelled():
                    raise StorageUnavailableError(
                        f"storage {self.shown} is unavailable: {reason}; runs in progress resume "
                        "from their checkpoints when it is back"
                    ) from error
                self.close()  # another server may have taken over
                time.sleep(RETRY_SECONDS)
            else:
                self.was_reached = True
                if waiting_since:
                    seconds = time.monotonic() - waiting_since
                    self.notify(f"the storage is back after {seconds:.0f} s")
                return result

    def _is_refused(self, reason: str) -> bool:
        """Return whether a server that was never reached refused for good."""
        return not self.was_reached and any(each in reason for each in REFUSALS)

    def set_timeout(
        self,
        seconds: float,
        notify: Callable[[str], None],
        *,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Set how long to wait for a database that is unavailable.

        Args:
            seconds: Timeout of `retry`.
            notify: Receives a message when the wait starts and ends.
            is_cancelled: Asked during a wait, for the database or a lock; True ends it.
        """
        self.timeout, self.notify, self.is_cancelled = seconds, notify, is_cancelled

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock called `name`; it is released when its holder dies.

        With PostgreSQL it is also lost, without notice, when its connection breaks. So it only
        saves work; nothing may depend on it.

        Raises:
            InterruptedError: Another worker holds it, and `is_cancelled` returned True.
            DisplacedError: SQLite's file was moved or replaced.
        """
        if self.is_local:
            assert self.file_lock is not None
            while True:
                self._check_in_place()
                try:
                    self.file_lock.acquire(timeout=LOCK_SECONDS)
                    break
                except filelock.Timeout:
                    self._check_cancelled()
            try:
                yield
            finally:
                self.file_lock.release()
            return
        if self.engine is None:
            self.engine = sqlalchemy.create_engine(self.url, **self.engine_arguments)
        # On its own connection: the server releases the lock when the connection ends.
        with self.engine.connect() as connection:

            def call(function: str) -> Any:
                statement = sqlalchemy.text(f"SELECT {function}(hashtext(:name))")
                return connection.execute(statement, {"name": f"fundamentallm {name}"}).scalar()

            for setting, value in KEEPALIVES.items():
                connection.execute(sqlalchemy.text(f"SET {setting} = {value}"))
            while not call("pg_try_advisory_lock"):
                time.sleep(LOCK_SECONDS)
                self._check_cancelled()
            try:
                yield
            finally:
                try:
                    call("pg_advisory_unlock")
                except sqlalchemy.exc.SQLAlchemyError:
                    connection.invalidate()  # ends the connection, and so the lock

    def _check_cancelled(self) -> None:
        if self.is_cancelled():
            raise InterruptedError("another worker holds the sweep's lock")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn every error of the database inside into one line.

        Raises:
            SweepError: There was an error.
        """
        try:
            yield
        except ModuleNotFoundError as error:
            raise SweepError(
                f"storage {self.shown} needs {error.name}, which is not installed; "
                "pip install 'fundamentallm[postgres]'"
            ) from None
        except Exception as error:  # Optuna's and SQLAlchemy's share no base class
            raise self._unusable(error) from error

    def _unusable(self, error: BaseException) -> SweepError:
        for each in _causes(error):
            if isinstance(each, StoredError):
                reason = one_line(each, LONGEST_REASON)
                return SweepError(f"storage {self.shown} has invalid content: {reason}")
        while error.__cause__ is not None:
            error = error.__cause__
        reason = one_line(getattr(error, "orig", None) or error, LONGEST_REASON)
        return SweepError(f"storage {self.shown} cannot be used: {reason}")

    def close(self) -> None:
        """Close the connections that are not in use; the next use opens new ones."""
        for pool in self.old_pools:
            pool.dispose()
        for engine in (self.engine, *(storage.engine for storage in self.storages)):
            if engine is not None:
                if isinstance(engine.pool, QueuePool) and engine.pool.checkedout():
                    self.old_pools.append(engine.pool)
                engine.dispose()
