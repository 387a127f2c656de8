"""The database behind a sweep: SQLite beside the runs, or PostgreSQL for many machines."""

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

from fundamentallm.exit_codes import FAILED
from fundamentallm.files.held_folder import HeldFolder
from fundamentallm.sweep.file.diagnostics import DisplacedError, SweepError
from fundamentallm.sweep.store.address import StorageAddress
from fundamentallm.sweep.store.sqlite_file import OwnFile
from fundamentallm.sweep.store.stored_values import StoredError

BUSY_SECONDS = 60
"""How long SQLite waits for another writer."""
AWAY_SECONDS = 2.0
"""Between looks at whether a database is back."""
LOCK_SECONDS = 0.05
"""Between looks at whether a lock that others hold is free."""
LONGEST_REASON = 500  # characters
ODD_TRIES = 5
"""How often in a row an error is met that a broken connection may have led to, or may not."""
AWAY_CLASSES = ("08", "25", "40", "53", "57", "58")
"""Of PostgreSQL's error codes: no connection, read-only (a failover), a conflict, no resources, an
operator's doing, the system's fault."""
REFUSALS = ("authentication failed", "does not exist", "no pg_hba.conf entry", "no password")
"""What a server says to an address that will not work later either."""
KEEPALIVES = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
"""After a minute PostgreSQL takes a lock's holder whose machine vanished for dead, and not after
the two hours of Linux."""

P = ParamSpec("P")
T = TypeVar("T")


class AwayError(SweepError):
    """The storage has been away, or its disk full, for longer than anyone wants to wait."""

    exit_code = FAILED


class UsesDatabase(Protocol):
    """What `patient` needs to know."""

    database: Database


def patient(
    method: Callable[Concatenate[Any, P], T],
) -> Callable[Concatenate[Any, P], T]:
    """Have `Database.insist` do a method."""

    @wraps(method)
    def insisting(self: UsesDatabase, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.database.insist(lambda: method(self, *args, **kwargs))

    return insisting


def _is_away(error: BaseException) -> str:
    """Why the database cannot be used just now; nothing if that is not what went wrong."""
    for each in _causes(error):
        if isinstance(each, sqlalchemy.exc.DBAPIError) and (
            isinstance(each, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError)
            or each.connection_invalidated
            or str(getattr(each.orig, "sqlstate", None))[:2] in AWAY_CLASSES
        ):
            return " ".join(str(each.orig or each).split())[:200]
    return ""


def _is_of_database(error: BaseException) -> bool:
    """Whether SQLAlchemy raised it: where a connection breaks, of many kinds."""
    return any(isinstance(each, sqlalchemy.exc.SQLAlchemyError) for each in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it; SQLAlchemy names what it met while it cleaned up, but last."""
    while error is not None:
        yield error
        is_sqlalchemys = isinstance(error, sqlalchemy.exc.SQLAlchemyError)
        error = error.__cause__ or (error.__context__ if is_sqlalchemys else None)


class Database:
    """How to reach it, and a lock that all who use it share."""

    def __init__(self, url: str, place: HeldFolder | None = None) -> None:
        """Nothing is connected yet.

        Args:
            url: `sqlite:///PATH` or `postgresql://...`.
            place: The sweep's folder, where SQLite's users meet at a lock file; without it nothing
                can be locked.

        Raises:
            SweepError: It is neither.
        """
        self.address = StorageAddress.parse(url)
        self.shown, self.url = self.address.shown, self.address.driver_url
        self.is_local = self.address.is_local
        self.path = str(sqlalchemy.make_url(self.url).database)
        """Of SQLite's file."""
        self.place = place
        self.file_lock: filelock.BaseFileLock | None = None
        if place is not None:  # FileLock would make a folder anew that has been moved away
            self.file_lock = filelock.FileLock(place.lasting_path("ledger.lock"))
        self.file: tuple[int, int] | None = None
        """SQLite's, as it was at first."""
        self.engine: sqlalchemy.Engine | None = None
        self.storages: list[optuna.storages.RDBStorage] = []
        self.old_pools: list[sqlalchemy.Pool] = []
        """Closed while connections were in use, which end at the next `close`."""
        self.was_reached = False
        self.set_timeout(0.0, lambda line: None)

    def prepare(self) -> None:
        """Let SQLite's readers and its writer not wait for one another.

        Else a worker that is stopped while it reads, by Ctrl-Z say, holds up all the others.
        """
        if self.is_local:
            arguments = self.engine_arguments["connect_args"]
            with closing(sqlite3.connect(self.path, **arguments)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")

    @property
    def engine_arguments(self) -> dict[str, Any]:
        """For SQLAlchemy's `create_engine`."""
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
        """See that SQLite's file is where it was, and not another that has come into its place.

        Raises:
            DisplacedError: It is not.
        """
        if self.place is None:
            return
        now = self.place.identity(Path(self.path).name)
        why = self.place.why_displaced()
        if why:
            raise DisplacedError(f"{self.place.path}: {why} while the sweep ran")
        if self.file not in (None, now):
            raise DisplacedError(
                f"{self.path}: removed or replaced while the sweep ran, which stops here; put it "
                "back, or begin the sweep again with another --output-dir"
            )
        self.file = now

    def open_storage(self) -> optuna.storages.RDBStorage:
        """Open Optuna's storage, and make its tables if they are not there."""
        made = optuna.storages.RDBStorage.__new__(optuna.storages.RDBStorage)
        try:
            made.__init__(self.url, engine_kwargs=self.engine_arguments)
        finally:  # it connects before it can fail
            if hasattr(made, "engine"):
                self.storages.append(made)
        return made

    def insist(self, work: Callable[[], T]) -> T:
        """Do `work`, and again while the database is away; it must do no harm when done twice.

        Raises:
            AwayError: It was away for longer than `patience`, or `meanwhile` said that nobody waits
                any longer.
        """
        began, odd = 0.0, 0
        while True:
            try:
                result = work()
            except Exception as error:
                reason = _is_away(error)
                if not reason and odd < ODD_TRIES and _is_of_database(error):
                    odd += 1  # a connection that broke: what it was shows at the next try
                    continue
                if not reason and (isinstance(error, StoredError) or _is_of_database(error)):
                    raise self._unusable(error) from error
                if not reason or isinstance(error, AwayError) or self._is_refused(reason):
                    raise
                odd = 0
                now = time.monotonic()
                if not began:
                    began = now
                    self.notify(f"the storage {self.shown} is away: {reason}; waiting for it")
                if now - began > self.timeout or self.is_cancelled():
                    raise AwayError(
                        f"the storage {self.shown} is away: {reason}; runs that were in "
                        "progress go on from their checkpoints when it is back"
                    ) from error
                self.close()  # another server may have taken over
                time.sleep(AWAY_SECONDS)
            else:
                self.was_reached = True
                if began:
                    self.notify(f"the storage is back after {time.monotonic() - began:.0f} s")
                return result

    def _is_refused(self, reason: str) -> bool:
        """Whether a server that was never reached says what it will say again later."""
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
        """Only one holds the lock called `name`; it is let go of when its holder dies.

        With PostgreSQL it is lost as well when its connection breaks, and nobody is told: it saves
        work, and nothing may depend on it.

        Raises:
            InterruptedError: Others hold it, and `meanwhile` said that nobody waits any longer.
            DisplacedError: SQLite's file is not where it was.
        """
        if self.is_local:
            assert self.file_lock is not None
            while True:
                self._check_in_place()
                try:
                    self.file_lock.acquire(timeout=LOCK_SECONDS)
                    break
                except filelock.Timeout:
                    self._go_on_waiting()
            try:
                yield
            finally:
                self.file_lock.release()
            return
        if self.engine is None:
            self.engine = sqlalchemy.create_engine(self.url, **self.engine_arguments)
        # On a connection of its own: the server lets go of the lock when the connection ends.
        with self.engine.connect() as connection:

            def ask(function: str) -> Any:
                call = sqlalchemy.text(f"SELECT {function}(hashtext(:name))")
                return connection.execute(call, {"name": f"fundamentallm {name}"}).scalar()

            for setting, value in KEEPALIVES.items():
                connection.execute(sqlalchemy.text(f"SET {setting} = {value}"))
            while not ask("pg_try_advisory_lock"):
                time.sleep(LOCK_SECONDS)
                self._go_on_waiting()
            try:
                yield
            finally:
                try:
                    ask("pg_advisory_unlock")
                except sqlalchemy.exc.SQLAlchemyError:
                    connection.invalidate()  # with which the lock goes

    def _go_on_waiting(self) -> None:
        if self.is_cancelled():
            raise InterruptedError("the sweep's lock is held by others")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """What goes wrong with the database inside becomes one line.

        Raises:
            SweepError: It did.
        """
        try:
            yield
        except ModuleNotFoundError as error:
            raise SweepError(
                f"the storage {self.shown} needs {error.name}, which is not installed; "
                "pip install 'fundamentallm[postgres]'"
            ) from None
        except Exception as error:  # optuna's and SQLAlchemy's have no base in common
            raise self._unusable(error) from error

    def _unusable(self, error: BaseException) -> SweepError:
        for each in _causes(error):
            if isinstance(each, StoredError):
                reason = " ".join(str(each).split())[:LONGEST_REASON]
                what = "holds what no sweep has written"
                return SweepError(f"the storage {self.shown} {what}: {reason}")
        while error.__cause__ is not None:
            error = error.__cause__
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        return SweepError(f"the storage {self.shown} cannot be used: {reason[:LONGEST_REASON]}")

    def close(self) -> None:
        """Close the connections that are not in use; the next use opens others."""
        for pool in self.old_pools:
            pool.dispose()
        for engine in (self.engine, *(storage.engine for storage in self.storages)):
            if engine is not None:
                if isinstance(engine.pool, QueuePool) and engine.pool.checkedout():
                    self.old_pools.append(engine.pool)
                engine.dispose()
